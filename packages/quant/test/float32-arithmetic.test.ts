import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { exp2Polynomial, fma32, log2Weight, roundHalfEven } from '../src/index.js';
import { FLT_MAX, finiteFloat32 } from './float32-arbitrary.js';

/** An integer count of 2^-149, exactly. */
function toUnits(x: number): bigint {
  const bits = new Uint32Array(Float32Array.of(x).buffer)[0]!;
  const exponent = (bits >>> 23) & 255;
  const mantissa = BigInt(bits & 0x7fffff) + (exponent === 0 ? 0n : 1n << 23n);
  const magnitude = mantissa << BigInt(Math.max(exponent, 1) - 1);
  return bits >>> 31 ? -magnitude : magnitude;
}

/** `units · 2^-298` rounded once to float32, ties to even. */
function roundUnits(units: bigint): number {
  const negative = units < 0n;
  const magnitude = negative ? -units : units;
  const length = magnitude.toString(2).length;
  const drop = BigInt(Math.max(length - 24, 149)); // below 2^-149 nothing is representable
  const half = 1n << (drop - 1n);
  let kept = magnitude >> drop;
  const rest = magnitude & ((1n << drop) - 1n);
  if (rest > half || (rest === half && kept & 1n)) kept += 1n;
  const value = Number(kept) * 2 ** (Number(drop) - 149) * 2 ** -149; // in two steps: 2^-298 itself is fine, the powers must not overflow
  const rounded = Math.abs(value) > FLT_MAX ? Infinity : value;
  return negative ? -rounded : rounded;
}

function exactFma(a: number, b: number, c: number): number {
  return roundUnits(toUnits(a) * toUnits(b) + (toUnits(c) << 149n));
}

describe('fma32', () => {
  it('rounds a·b + c once, for any float32 numbers', () => {
    fc.assert(
      fc.property(finiteFloat32, finiteFloat32, finiteFloat32, (a, b, c) => {
        expect(fma32(a, b, c) + 0).toBe(exactFma(a, b, c) + 0);
      }),
      { numRuns: 3000 },
    );
  });

  it('is right where fround(a·b + c) is not: a float64 sum on a midpoint of two float32 numbers', () => {
    // c + 2^-24·(1 + e) with e too small for a float64 next to 1: the sum falls on the midpoint that it is in truth just beyond.
    let twiceRounded = 0;
    for (let i = 0; i < 400; i++) {
      const c = 1 + (i % 50) * 2 ** -23;
      const a = 1 + 2 ** -12;
      const b = (1 - 2 ** -12 + (i % 2 === 0 ? 2 ** -24 : 0)) * 2 ** -24; // a·b = 2^-24·(1 ± about 2^-24)
      for (const [x, y, z] of [
        [a, b, c],
        [-a, b, -c],
        [a, b * 2 ** -20, c * 2 ** -20],
        [1 + 2 ** -23, (1 - 2 ** -23) * 2 ** -24, c],
        [1 + 2 ** -23, (1 - 2 ** -24) * 2 ** -24, c],
      ] as const) {
        const expected = exactFma(x, y, z);
        if (Math.fround(x * y + z) !== expected) twiceRounded++;
        expect(fma32(x, y, z)).toBe(expected);
      }
    }
    expect(twiceRounded).toBeGreaterThan(50); // the cases are the ones that matter
  });

  it('overflows to infinity and passes NaN on', () => {
    expect(fma32(FLT_MAX, 2, 0)).toBe(Infinity);
    expect(fma32(FLT_MAX, -2, 0)).toBe(-Infinity);
    expect(fma32(Number.NaN, 1, 1)).toBeNaN();
    expect(fma32(Infinity, 1, -Infinity)).toBeNaN();
  });
});

describe('roundHalfEven', () => {
  it('takes the even neighbour of a tie', () => {
    expect([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 126.5].map(roundHalfEven)).toEqual([-2, -2, 0, 0, 2, 2, 126]);
  });

  it('is the nearest integer', () => {
    fc.assert(
      fc.property(fc.float({ min: -(2 ** 20), max: 2 ** 20, noNaN: true }), (x) => {
        const rounded = roundHalfEven(x);
        expect(Number.isInteger(rounded)).toBe(true);
        expect(Math.abs(x - rounded)).toBeLessThanOrEqual(0.5);
      }),
    );
  });
});

describe('exp2Polynomial', () => {
  it('is within 2.9e-6 of 2^y, and no better than 1e-6 (which would be another polynomial)', () => {
    let worst = 0;
    for (let y = 0; y >= -124; y -= 0.00731) {
      const x = Math.fround(y);
      worst = Math.max(worst, Math.abs(exp2Polynomial(x) / 2 ** x - 1));
    }
    expect(worst).toBeLessThan(2.9e-6);
    expect(worst).toBeGreaterThan(1e-6);
  });

  it('is exact at integers, at most 1, and stays at 2^-125 below', () => {
    for (let n = 0; n >= -125; n--) expect(exp2Polynomial(n)).toBe(2 ** n);
    for (const y of [-126, -1e30, -Infinity]) expect(exp2Polynomial(y)).toBe(2 ** -125);
    fc.assert(
      fc.property(fc.float({ max: 0, noNaN: true }), (y) => exp2Polynomial(y) <= 1 && exp2Polynomial(y) >= 2 ** -126),
    );
  });
});

describe('log2Weight', () => {
  it('is float32 log2 within one unit, from 2^-149 to FLT_MAX', () => {
    fc.assert(
      fc.property(fc.float({ min: 2 ** -149, noNaN: true, noDefaultInfinity: true }), (w) => {
        const expected = Math.log2(w);
        // one unit in the last place of float32, plus what float64's own log2 leaves near w = 1
        expect(Math.abs(log2Weight(w) - expected)).toBeLessThanOrEqual(Math.abs(expected) * 2 ** -23 + 1e-15);
      }),
      { numRuns: 2000 },
    );
  });

  it('is exact at powers of two', () => {
    for (let n = -149; n <= 127; n++) expect(log2Weight(2 ** n)).toBe(n);
  });
});
