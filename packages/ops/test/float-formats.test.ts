import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  bfloat16BitsToNumber,
  float16BitsToNumber,
  float32ToFloat16Bits,
  fromFloat32,
  numberToBfloat16Bits,
  numberToFloat16Bits,
  toFloat32,
} from '../src/index.js';

const allBits = Uint16Array.from({ length: 65536 }, (_, bits) => bits);

/** binary16 by its definition. */
function binary16(bits: number): number {
  const [sign, exponent, fraction] = [bits >> 15 ? -1 : 1, (bits >> 10) & 31, bits & 1023];
  if (exponent === 31) return fraction ? Number.NaN : sign * Infinity;
  return sign * (exponent === 0 ? fraction * 2 ** -24 : (1 + fraction / 1024) * 2 ** (exponent - 15));
}

/** bfloat16 by its definition. */
function bfloat16(bits: number): number {
  const [sign, exponent, fraction] = [bits >> 15 ? -1 : 1, (bits >> 7) & 255, bits & 127];
  if (exponent === 255) return fraction ? Number.NaN : sign * Infinity;
  return sign * (exponent === 0 ? fraction * 2 ** -133 : (1 + fraction / 128) * 2 ** (exponent - 127));
}

describe('float32ToFloat16Bits', () => {
  it('rounds every float32 around every float16 as the library rounds', () => {
    const bits = new Uint32Array(1);
    const float = new Float32Array(bits.buffer);
    const wrong: number[] = [];
    for (const pattern of allBits) {
      float[0] = binary16(pattern);
      const center = bits[0]!;
      for (const step of [0, 1, 0xfff, 0x1000, 0x1001, 0x1fff]) {
        bits[0] = center + step; // up to the next float16, the middle and its neighbours
        if (!Object.is(float32ToFloat16Bits(float[0]!), numberToFloat16Bits(float[0]!))) wrong.push(bits[0]!);
      }
    }
    expect(wrong).toEqual([]);
  });
});

describe.each([
  {
    type: 'float16' as const,
    decode: float16BitsToNumber,
    encode: numberToFloat16Bits,
    definition: binary16,
    top: 0x7bff,
    infinity: 0x7c00,
  },
  {
    type: 'bfloat16' as const,
    decode: bfloat16BitsToNumber,
    encode: numberToBfloat16Bits,
    definition: bfloat16,
    top: 0x7f7f,
    infinity: 0x7f80,
  },
])('$type', ({ type, decode, encode, definition, top, infinity }) => {
  it('decodes all 65,536 bit patterns by the definition, one by one and in bulk', () => {
    const bulk = toFloat32(allBits, type);
    const wrong = [...allBits].filter(
      (bits) => !Object.is(decode(bits), definition(bits)) || !Object.is(bulk[bits], definition(bits)),
    );
    expect(wrong).toEqual([]);
  });

  it('gives every pattern back; NaN stays NaN', () => {
    const bulk = fromFloat32(toFloat32(allBits, type), type);
    const wrong = [...allBits].filter((bits) => {
      const number = decode(bits);
      if (Number.isNaN(number)) return !Number.isNaN(decode(encode(number))) || !Number.isNaN(decode(bulk[bits]!));
      return encode(number) !== bits || bulk[bits] !== bits;
    });
    expect(wrong).toEqual([]);
  });

  it('rounds to nearest, ties to even, at every midpoint and beside it', () => {
    const wrong: number[] = [];
    for (let bits = 0; bits < top; bits++) {
      const middle = (definition(bits) + definition(bits + 1)) / 2; // exact in float64, and in float32
      const ulp = middle * 2 ** -23 || 2 ** -149;
      const even = bits % 2 === 0 ? bits : bits + 1;
      const beside = [Math.fround(middle - ulp), Math.fround(middle + ulp)].map(encode);
      if (encode(middle) !== even || beside[0]! > bits + 1 || beside[0]! < bits) wrong.push(bits);
      if (Math.fround(middle - ulp) < middle && beside[0] !== bits) wrong.push(bits);
      if (Math.fround(middle + ulp) > middle && beside[1] !== bits + 1) wrong.push(bits);
      if (encode(-middle) !== (even | 0x8000)) wrong.push(bits);
    }
    expect(wrong).toEqual([]);
  });

  it('overflows to infinity from halfway past the largest number', () => {
    const last = definition(top);
    const step = last - definition(top - 1);
    expect(encode(last + step / 2)).toBe(infinity);
    expect(encode(last + step / 4)).toBe(top);
    expect([encode(Infinity), encode(-Infinity)]).toEqual([infinity, infinity | 0x8000]);
    expect([encode(0), encode(-0)]).toEqual([0, 0x8000]);
  });

  it('writes into the middle of an existing array', () => {
    const target = new Float32Array(5).fill(9);
    toFloat32(Uint16Array.of(encode(1.5), encode(-2)), type, target.subarray(2, 4));
    expect([...target]).toEqual([9, 9, 1.5, -2, 9]);
  });
});

describe('float32', () => {
  it('is copied, not aliased', () => {
    fc.assert(
      fc.property(fc.float32Array({ maxLength: 20 }), (source) => {
        const copy = toFloat32(source, 'float32');
        expect(copy).not.toBe(source);
        expect(copy).toEqual(source);
      }),
    );
  });
});
