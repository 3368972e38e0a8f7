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
