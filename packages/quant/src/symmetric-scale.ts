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

const MAX_FLOAT32 = (2 - 2 ** -23) * 2 ** 127;

/** Cuts to ±FLT_MAX: the code of FLT_MAX times its rounded scale can lie just beyond, and would come back as Infinity. */
export function saturate(x: number): number {
  return Math.min(Math.max(x, -MAX_FLOAT32), MAX_FLOAT32);
}
