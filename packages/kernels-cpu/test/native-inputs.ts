/** Numbers in (-1, 1) with a few outliers: a fixed sequence per seed. */
export function randomFloats(count: number, seed: number): Float32Array {
  let state = Math.imul(seed, 2654435761) + 12345;
  return Float32Array.from({ length: count }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) | 0;
    const x = state / 2 ** 31;
    return (state & 0x3f00) === 0 ? 6 * x : x;
  });
}

export function randomCodes(count: number, seed: number): Int8Array {
  return Int8Array.from(randomFloats(count, seed), (x) => Math.max(-127, Math.min(127, Math.round(x * 127))));
}

/** Positive, around 0.01, as scales of real rows are. */
export function randomScales(count: number, seed: number): Float32Array {
  return randomFloats(count, seed).map((x) => 0.002 + Math.abs(x) * 0.02);
}

/** How many elements differ in any bit; zeros of either sign count as equal, NaN as different from everything. */
export function unequalBits(a: Float32Array, b: Float32Array): number {
  if (a.length !== b.length) return Number.POSITIVE_INFINITY;
  let count = 0;
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) count++;
  return count;
}
