const MAX_FLOAT32 = (2 - 2 ** -23) * 2 ** 127;

/**
 * Fused multiply-add in float32, `a·b + c` rounded once: the twin of the CPU's `vfmadd` and CUDA's `fmaf`, to the bit.
 *
 * The product of two float32 numbers is exact in float64, so `fround(a·b + c)` would be the answer if the sum were not rounded twice.
 * That goes wrong only when the float64 sum is inexact and falls on a midpoint of two float32 numbers; there the lost part decides.
 * @param a float32, like `b` and `c`.
 */
export function fma32(a: number, b: number, c: number): number {
  const sum = a * b + c;
  const near = Math.fround(sum);
  const other = sum + (sum - near); // the float32 on the far side of `sum`, if `sum` is a midpoint
  return other === sum || Math.fround(other) !== other ? near : breakTie(a * b, c, sum, near, other);
}

/** `sum` lies midway between the float32 numbers `near` and `other`: takes the side on which the exact sum lies. */
function breakTie(product: number, c: number, sum: number, near: number, other: number): number {
  if (!(Math.abs(near) <= MAX_FLOAT32)) return near;
  const part = sum - product;
  const lost = product - (sum - part) + (c - part); // Knuth's two-sum: exact
  if (lost === 0) return near;
  return lost > 0 ? Math.max(near, other) : Math.min(near, other);
}
