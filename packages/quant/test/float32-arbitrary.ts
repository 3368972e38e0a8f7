import fc from 'fast-check';

export const FLT_MAX = (2 - 2 ** -23) * 2 ** 127;

/** Any finite float32, subnormals, zeros and FLT_MAX included. */
export const finiteFloat32 = fc.oneof(
  { weight: 6, arbitrary: fc.float({ noNaN: true, noDefaultInfinity: true }) },
  { weight: 3, arbitrary: fc.float({ min: -8, max: 8, noNaN: true }) },
  {
    weight: 1,
    arbitrary: fc.constantFrom(0, -0, FLT_MAX, -FLT_MAX, 2 ** -149, -(2 ** -149), 2 ** -126, 2 ** -127, 1, -1),
  },
);

/** A [tokens, dim] matrix whose values share a magnitude or do not. */
export function matrix(maxTokens = 6, maxDim = 12) {
  return fc
    .record({ tokens: fc.integer({ min: 0, max: maxTokens }), dim: fc.integer({ min: 1, max: maxDim }) })
    .chain(({ tokens, dim }) =>
      fc
        .array(finiteFloat32, { minLength: tokens * dim, maxLength: tokens * dim })
        .map((values) => ({ tokens, dim, input: Float32Array.from(values) })),
    );
}

/**
 * Half a step, and what float32 rounding may add: `x / scale` is rounded before it meets the border between two codes (at most
 * 2^-24 of 127 steps), and the scale itself may be 2^-24 short of `max / 127`.
 */
export function halfStep(scale: number, x: number): number {
  return scale / 2 + Math.abs(x) * 2 ** -23;
}

/** float32 of a dequantized number, cut to ±FLT_MAX. */
export function saturated(x: number): number {
  return Math.fround(Math.min(Math.max(x, -FLT_MAX), FLT_MAX));
}
