const SHIFT = 1.5 * 2 ** 52; // above it a double has no fraction bits, so adding it rounds to an integer, ties to even

/**
 * The nearest integer, ties to even: the one rounding rule of every quantizer. CUDA's `__float2int_rn` and C's `nearbyint` are its twins.
 *
 * @param x |x| < 2^51. NaN stays NaN. Never returns -0.
 */
export function roundHalfEven(x: number): number {
  return x + SHIFT - SHIFT;
}
