import { hostArray } from '@int-flash/ops';

/** Largest INT8 code. -128 is never produced: with a symmetric grid, negating a row negates its codes. */
export const MAX_INT8_CODE = 127;
/** Largest INT4 code; -8 is never produced. */
export const MAX_INT4_CODE = 7;
/** Smallest normal float32; as a floor it keeps an all-zero row from 0 / 0 and a subnormal one from a scale without precision. */
export const MIN_SCALE = 2 ** -126;

/** `max(f32(maximum / maxCode), 2^-126)`: the step of a symmetric grid that reaches `maximum`. */
export function symmetricScale(maximum: number, maxCode: number): number {
  return Math.max(Math.fround(maximum / maxCode), MIN_SCALE);
}

/** The largest finite float32. */
export const MAX_FLOAT32 = (2 - 2 ** -23) * 2 ** 127;

/** Cuts to ±FLT_MAX: the code of FLT_MAX times its rounded scale can lie just beyond, and would come back as Infinity. */
export function saturate(x: number): number {
  return Math.min(Math.max(x, -MAX_FLOAT32), MAX_FLOAT32);
}

/** Above it, a code times the scale may lie beyond float32, and wants {@link saturate}. */
export const LARGE_SCALE = MAX_FLOAT32 / 256;

/** What codes stand for of which `run` neighbours share a scale: `f32(code · scale)`. A loop, since TypedArray.from is tens of times slower. */
export function dequantizeRuns(codes: Int8Array, scales: Float32Array, run: number): Float32Array {
  const out = hostArray(Float32Array, codes.length, 'the numbers that codes stand for');
  for (let i = 0; i < codes.length; i++) out[i] = saturate(codes[i]! * scales[Math.floor(i / run)]!);
  return out;
}
