import { type FloatType, fromFloat32, IntFlashError, toFloat32 } from '@int-flash/ops';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  dequantizePerBlockInt8,
  dequantizePerChannelInt8,
  dequantizePerGroupInt4,
  dequantizePerTensorInt8,
  dequantizePerTokenInt4,
  dequantizePerTokenInt8,
  type FloatInput,
  quantizePerBlockInt8,
  quantizePerChannelInt8,
  quantizePerGroupInt4,
  quantizePerTensorInt8,
  quantizePerTokenInt4,
  quantizePerTokenInt8,
  unpackInt4,
} from '../src/index.js';
import { FLT_MAX, finiteFloat32, halfStep, matrix, saturated } from './float32-arbitrary.js';

/** Codes, the scale of each element, and the dequantized numbers, whatever the layout. */
interface Quantized {
  readonly codes: Int8Array;
  readonly scaleOf: (i: number) => number;
  readonly back: Float32Array;
}
interface Scheme {
  readonly name: string;
  readonly maxCode: number;
  readonly quantize: (input: FloatInput, dim: number) => Quantized;
}

const schemes: Scheme[] = [
  {
    name: 'per token INT8',
    maxCode: 127,
    quantize: (input, dim) => {
      const q = quantizePerTokenInt8(input, dim);
      return { codes: q.values, scaleOf: (i) => q.scales[Math.floor(i / dim)]!, back: dequantizePerTokenInt8(q, dim) };
    },
  },
  {
    name: 'per channel INT8',
    maxCode: 127,
    quantize: (input, dim) => {
      const q = quantizePerChannelInt8(input, dim);
      return { codes: q.values, scaleOf: (i) => q.scales[i % dim]!, back: dequantizePerChannelInt8(q) };
    },
  },
  {
    name: 'per tensor INT8',
    maxCode: 127,
    quantize: (input) => {
      const q = quantizePerTensorInt8(input);
      return { codes: q.values, scaleOf: () => q.scale, back: dequantizePerTensorInt8(q) };
    },
  },
  {
    name: 'per block INT8',
    maxCode: 127,
    quantize: (input, dim) => {
      const q = quantizePerBlockInt8(input, dim, 2);
      return {
        codes: q.values,
        scaleOf: (i) => q.scales[Math.floor(i / dim / 2)]!,
        back: dequantizePerBlockInt8(q, dim),
      };
    },
  },
  {
    name: 'per token INT4',
    maxCode: 7,
    quantize: (input, dim) => {
      const q = quantizePerTokenInt4(input, dim);
      return {
        codes: unpackInt4(q.packed, q.scales.length * dim),
        scaleOf: (i) => q.scales[Math.floor(i / dim)]!,
        back: dequantizePerTokenInt4(q, dim),
      };
    },
  },
];

describe.each(schemes)('$name', ({ quantize, maxCode }) => {
  it('keeps every element within half its step, with codes in range', () => {
    fc.assert(
      fc.property(matrix(), ({ input, dim }) => {
        const { codes, scaleOf, back } = quantize(input, dim);
        expect(codes.length).toBe(input.length);
        for (let i = 0; i < input.length; i++) {
          const scale = scaleOf(i);
          expect(scale).toBeGreaterThanOrEqual(2 ** -126);
          expect(Math.abs(codes[i]!)).toBeLessThanOrEqual(maxCode);
          expect(Math.abs(input[i]! - codes[i]! * scale)).toBeLessThanOrEqual(halfStep(scale, input[i]!));
          expect(back[i]).toBe(saturated(codes[i]! * scale));
        }
      }),
      { numRuns: 500 },
    );
  });

  it('uses the whole range: the largest magnitude gets the largest code', () => {
    const { codes, back } = quantize(Float32Array.of(-3, 3), 1);
    expect([...codes].map(Math.abs)).toEqual([maxCode, maxCode]);
    expect(back[1]).toBeCloseTo(3, 6);
  });

  it('takes zeros, subnormals and FLT_MAX', () => {
    expect([...quantize(new Float32Array(4), 2).codes]).toEqual([0, 0, 0, 0]);
    const tiny = quantize(Float32Array.of(2 ** -149, -(2 ** -140)), 2);
    expect([...tiny.codes]).toEqual([0, 0]); // the smallest step is 2^-126
    const huge = quantize(Float32Array.of(FLT_MAX, -FLT_MAX), 2);
    expect([...huge.codes]).toEqual([maxCode, -maxCode]);
    expect(Math.abs(huge.codes[0]! * huge.scaleOf(0) - FLT_MAX)).toBeLessThanOrEqual(halfStep(0, FLT_MAX));
  });

  it('negates codes when the input is negated', () => {
    fc.assert(
      fc.property(matrix(), ({ input, dim }) => {
        const minus = quantize(
          input.map((x) => -x),
          dim,
        );
        expect([...minus.codes]).toEqual([...quantize(input, dim).codes].map((code) => 0 - code));
      }),
    );
  });

  it.each([Number.NaN, Infinity, -Infinity])('rejects %s and names the element', (bad) => {
    fc.assert(
      fc.property(fc.array(finiteFloat32, { minLength: 1, maxLength: 9 }), fc.nat(8), (values, at) => {
        const input = Float32Array.from(values);
        const element = at % input.length;
        input[element] = bad;
        expect(() => quantize(input, 1)).toThrow(
          expect.objectContaining({
            code: 'ERR_NONFINITE',
            message: expect.stringMatching(new RegExp(`got ${bad} at element ${element}$`)),
          }),
        );
      }),
      { numRuns: 50 },
    );
  });

  it.each<FloatType>(['float16', 'bfloat16'])('quantizes %s as the float32 numbers it stands for', (type) => {
    const values = Float32Array.from({ length: 24 }, (_, i) => Math.sin(i) * 10 ** ((i % 5) - 2));
    const bits = fromFloat32(values, type as 'float16');
    const widened = quantize(toFloat32(bits, type), 6);
    const direct = quantize({ type, data: bits }, 6);
    expect(direct.codes).toEqual(widened.codes);
    expect(direct.back).toEqual(widened.back);
  });

  it('rejects other inputs by type', () => {
    for (const input of [
      null,
      [1, 2],
      new Float64Array(2),
      { type: 'float16', data: new Float32Array(2) },
      { type: 'int8', data: new Int8Array(2) },
    ]) {
      expect(() => quantize(input as unknown as Float32Array, 2)).toThrow(
        expect.objectContaining({ code: 'ERR_ARG_TYPE' }),
      );
    }
  });
});

describe('shapes', () => {
  it.each([0, -1, 1.5, Number.NaN, 3])('rejects dim %s for 4 elements', (dim) => {
    const input = new Float32Array(4);
    const calls = [
      () => quantizePerTokenInt8(input, dim),
      () => quantizePerChannelInt8(input, dim),
      () => quantizePerBlockInt8(input, dim),
      () => quantizePerTokenInt4(input, dim),
      () => quantizePerGroupInt4(input, dim, 32),
    ];
    for (const call of calls) expect(call).toThrow(expect.objectContaining({ code: 'ERR_SHAPE' }));
  });

  it('cuts the last block short', () => {
    const { scales } = quantizePerBlockInt8(Float32Array.of(1, 2, 3, 4, 5), 1, 2);
    expect([...scales]).toEqual([2, 4, 5].map((max) => Math.fround(max / 127)));
    expect(() => quantizePerBlockInt8(new Float32Array(2), 1, 0)).toThrow(IntFlashError);
  });
});

describe('per group INT4', () => {
  it.each([32, 64, 128] as const)('keeps every element within half its group of %s step', (group) => {
    fc.assert(
      fc.property(fc.array(finiteFloat32, { minLength: 2 * group, maxLength: 2 * group }), (values) => {
        const input = Float32Array.from(values);
        const q = quantizePerGroupInt4(input, 2 * group, group);
        const codes = unpackInt4(q.packed, input.length);
        const back = dequantizePerGroupInt4(q);
        expect(dequantizePerGroupInt4(q, new Float32Array(back.length))).toEqual(back);
        expect(q.packed.length).toBe(group);
        for (let i = 0; i < input.length; i++) {
          const scale = q.scales[Math.floor(i / group)]!;
          expect(Math.abs(input[i]! - codes[i]! * scale)).toBeLessThanOrEqual(halfStep(scale, input[i]!));
          expect(back[i]).toBe(saturated(codes[i]! * scale));
        }
      }),
      { numRuns: 60 },
    );
  });

  it('rejects other groups, and rows they do not divide', () => {
    expect(() => quantizePerGroupInt4(new Float32Array(32), 32, 16 as 32)).toThrow(
      expect.objectContaining({ code: 'ERR_ARG_RANGE' }),
    );
    expect(() => quantizePerGroupInt4(new Float32Array(96), 96, 64)).toThrow(
      expect.objectContaining({ code: 'ERR_SHAPE' }),
    );
  });
});

describe('per tensor INT8 with a clipping range', () => {
  it('saturates beyond the range and keeps half a step within it', () => {
    fc.assert(
      fc.property(
        fc.array(fc.float({ min: -100, max: 100, noNaN: true }), { minLength: 1 }),
        fc.float({ min: Math.fround(0.01), max: 50, noNaN: true }),
        (values, range) => {
          const input = Float32Array.from(values);
          const { values: codes, scale } = quantizePerTensorInt8(input, range);
          for (let i = 0; i < input.length; i++) {
            if (Math.abs(input[i]!) >= range) expect(codes[i]).toBe(127 * Math.sign(input[i]!));
            else expect(Math.abs(input[i]! - codes[i]! * scale)).toBeLessThanOrEqual(halfStep(scale, input[i]!));
          }
        },
      ),
    );
  });
});
