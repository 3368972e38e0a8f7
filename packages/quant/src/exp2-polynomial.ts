import { fma32 } from './fma32.js';
import { roundHalfEven } from './round-half-even.js';

/** Minimax coefficients of 2^f on [-½, ½] as float32 numbers (bits 3f317096 3e7601bc 3d64fe23 3c1d0166); relative error 2.8e-6 before rounding, exact at 0. */
const [C1, C2, C3, C4] = new Float32Array(
  new Uint32Array([0x3f317096, 0x3e7601bc, 0x3d64fe23, 0x3c1d0166]).buffer,
) as unknown as [number, number, number, number];
const MIN_EXPONENT = -125; // 2^-125 times the polynomial is still a normal float32
const POWERS = Float32Array.from({ length: 126 }, (_, n) => 2 ** -n);

/**
 * 2^y in float32 as every backend computes it (docs/arithmetic.md, Tiles, step 2).
 *
 * @param y float32, <= 0. Below -125 the result is 2^-125, never 0.
 * @returns A float32 in [2^-125, 1], at most 2.9e-6 away from 2^y relative to it.
 */
export function exp2Polynomial(y: number): number {
  const clamped = Math.max(y, MIN_EXPONENT);
  const n = roundHalfEven(clamped);
  const f = clamped - n; // exact: both are multiples of the smaller one's unit and |f| <= ½
  return fma32(fma32(fma32(fma32(C4, f, C3), f, C2), f, C1), f, 1) * POWERS[-n]!; // a power of two: exact
}
