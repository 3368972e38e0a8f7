import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { dequantizeTokenLevelV, hadamardBlock, hadamardRotate, quantizeTokenLevelV, smoothK } from '../src/index.js';
import { FLT_MAX, matrix, saturated } from './float32-arbitrary.js';

const moderate = matrix(8, 16).map(({ input, ...rest }) => ({
  ...rest,
  input: input.map((x) => Math.min(Math.max(x, -1e30), 1e30)),
}));

describe('quantizeTokenLevelV', () => {
  it('keeps every element within half its step, channel · weight', () => {
    fc.assert(
      fc.property(matrix(8, 16), ({ input, dim }) => {
        const v = quantizeTokenLevelV(input, dim);
        const back = dequantizeTokenLevelV(v);
        for (let i = 0; i < input.length; i++) {
          const weight = v.tokenWeights[Math.floor(i / dim)]!;
          const channel = v.channelScales[i % dim]!;
          expect(weight).toBeGreaterThanOrEqual(2 ** -20);
          expect(weight).toBeLessThanOrEqual(1);
          expect(Math.abs(v.values[i]!)).toBeLessThanOrEqual(127);
          // u, weight / 127, channel / 127 and the quotient are each rounded to float32 (2^-24 relative); a subnormal channel scale to 2^-150.
          const rounding = Math.abs(input[i]!) * 2 ** -21 + 127 * 2 ** -149;
          expect(Math.abs(input[i]! - channel * weight * v.values[i]!)).toBeLessThanOrEqual(
            (channel * weight) / 2 + rounding,
          );
          expect(back[i]).toBe(saturated(channel * weight * v.values[i]!));
        }
      }),
      { numRuns: 500 },
    );
  });

  it('gives zero channels scale 1 / 127 and zero tokens the floor', () => {
    const v = quantizeTokenLevelV(Float32Array.of(4, 0, 0, 0), 2);
    expect([...v.channelScales]).toEqual([Math.fround(4 / 127), Math.fround(1 / 127)]);
    expect([...v.tokenWeights]).toEqual([1, 2 ** -20]);
    expect([...v.values]).toEqual([127, 0, 0, 0]);
  });

  it('spends full codes on a token of small values beside a large one', () => {
    const v = quantizeTokenLevelV(Float32Array.of(100, -100, 0.01, -0.02), 2);
    expect([...v.values]).toEqual([127, -127, 64, -127]);
  });

  it('takes no tokens, and FLT_MAX', () => {
    expect(quantizeTokenLevelV(new Float32Array(0), 3).values.length).toBe(0);
    const v = quantizeTokenLevelV(Float32Array.of(FLT_MAX, -FLT_MAX), 2);
    expect([...v.values]).toEqual([127, -127]);
    expect(dequantizeTokenLevelV(v).every(Number.isFinite)).toBe(true);
  });

  it('names a non-finite element', () => {
    expect(() => quantizeTokenLevelV(Float32Array.of(0, Number.NaN), 2)).toThrow(
      expect.objectContaining({ code: 'ERR_NONFINITE', message: expect.stringContaining('element 1') }),
    );
  });
});

describe('smoothK', () => {
  it('leaves every query’s score differences as they were', () => {
    fc.assert(
      fc.property(moderate, ({ input, dim, tokens }) => {
        const { values, mean } = smoothK(input, dim);
        for (let i = 0; i < input.length; i++) {
          // One subtraction, rounded once.
          expect(values[i]).toBe(Math.fround(input[i]! - mean[i % dim]!));
        }
        for (let d = 0; d < dim && tokens > 0; d++) {
          let sum = 0;
          let largest = 0;
          for (let j = 0; j < tokens; j++) {
            sum += input[j * dim + d]!;
            largest = Math.max(largest, Math.abs(input[j * dim + d]!));
          }
          expect(Math.abs(mean[d]! - sum / tokens)).toBeLessThanOrEqual(largest * 2 ** -24 + 2 ** -150);
        }
      }),
    );
  });

  it('removes an offset that all tokens share', () => {
    const { values, mean } = smoothK(Float32Array.of(100, 1, 102, 3), 2);
    expect([...mean]).toEqual([101, 2]);
    expect([...values]).toEqual([-1, -1, 1, 1]);
  });

  it('sums tiles of 128 tokens before it adds them up, as every backend does', () => {
    // 2^53 swallows the ones of its own tile; those of the second tile are summed before -2^53 takes the large number away again.
    const input = new Float32Array(256).fill(1);
    input[0] = 2 ** 53;
    input[255] = -(2 ** 53);
    expect([...smoothK(input, 1).mean]).toEqual([127 / 256]);
  });

  it('takes no tokens; names a non-finite element', () => {
    expect([...smoothK(new Float32Array(0), 2).mean]).toEqual([0, 0]);
    expect(() => smoothK(Float32Array.of(1, Infinity), 2)).toThrow(expect.objectContaining({ code: 'ERR_NONFINITE' }));
  });
});

describe('hadamardRotate', () => {
  it.each([2, 4, 8, 80, 96, 128, 256])('adds and subtracts stage by stage, to the bit: %i dimensions', (dim) => {
    // Numbers of many sizes, so that another order of the additions would round otherwise.
    const input = Float32Array.from({ length: 3 * dim }, (_, i) => Math.sin(12.9898 * i) * 2 ** ((37 * i) % 60));
    const block = hadamardBlock(dim);
    const work = Float64Array.from(input);
    for (let half = 1; half < block; half *= 2) {
      for (let i = 0; i < work.length; i++) {
        if ((i % block) & half) continue;
        const [a, b] = [work[i]!, work[i + half]!];
        [work[i], work[i + half]] = [a + b, a - b];
      }
    }
    expect([...hadamardRotate(input, dim)]).toEqual([...work].map((x) => Math.fround(x * (1 / Math.sqrt(block)))));
  });

  it('rotates in the largest power-of-two block that divides dim', () => {
    expect([1, 8, 80, 96, 128, 7].map(hadamardBlock)).toEqual([1, 8, 16, 32, 128, 1]);
    expect([...hadamardRotate(Float32Array.of(1, 0, 0, 1), 4)]).toEqual([1, 0, 0, 1]);
    expect([...hadamardRotate(Float32Array.of(2, 0, 0, 0, 0, 0), 6)]).toEqual([
      Math.fround(Math.SQRT2),
      Math.fround(Math.SQRT2),
      0,
      0,
      0,
      0,
    ]);
  });

  it.each([1, 6, 8, 16, 64, 80, 96, 128])('is its own inverse and keeps dot products, dim %s', (dim) => {
    fc.assert(
      fc.property(
        fc.array(fc.float({ min: -100, max: 100, noNaN: true }), { minLength: 2 * dim, maxLength: 2 * dim }),
        (numbers) => {
          const input = Float32Array.from(numbers);
          const rotated = hadamardRotate(input, dim);
          const back = hadamardRotate(rotated, dim);
          const norm = (row: number, of: Float32Array) => Math.hypot(...of.subarray(row * dim, (row + 1) * dim));
          for (let i = 0; i < input.length; i++) {
            expect(Math.abs(back[i]! - input[i]!)).toBeLessThanOrEqual(
              2 ** -23 * (norm(Math.floor(i / dim), input) + Math.abs(input[i]!)) + 2 ** -149,
            );
          }
          const dot = (x: Float32Array) => {
            let sum = 0;
            for (let d = 0; d < dim; d++) sum += x[d]! * x[dim + d]!;
            return sum;
          };
          expect(Math.abs(dot(rotated) - dot(input))).toBeLessThanOrEqual(
            2 ** -22 * norm(0, input) * norm(1, input) + 1e-30,
          );
        },
      ),
      { numRuns: 40 },
    );
  });

  it('spreads an outlier over its block', () => {
    const spike = new Float32Array(64);
    spike[5] = 8;
    expect([...hadamardRotate(spike, 64)].map(Math.abs)).toEqual(new Array(64).fill(1));
  });
});
