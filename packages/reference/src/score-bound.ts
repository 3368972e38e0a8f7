import { IntFlashError } from '@int-flash/ops';

/** Beyond it a sum of scores or values could leave float32. */
export const LIMIT = 2 ** 100;

/** Bound of the magnitudes that rows stand for: 127 times the largest scale where they are codes. */
export function magnitude(rows: Int8Array | Float32Array, scales: Float32Array): number {
  if (rows instanceof Int8Array) return 127 * scales.reduce((max, scale) => Math.max(max, scale), 0);
  return rows.reduce((max, x) => Math.max(max, Math.abs(x)), 0);
}

/**
 * The refusal every backend shares (docs/arithmetic.md, Quantizing).
 *
 * @param query Bound of |q|; `key` likewise.
 * @throws {IntFlashError} `ERR_OVERFLOW`.
 */
export function checkScoreBound(
  query: number,
  key: number,
  { headDim, scale }: { readonly headDim: number; readonly scale: number },
): void {
  // Each factor counts as at least 1: a partial product is formed before the others can make it small.
  const bound = [query, key, scale * Math.LOG2E].reduce((product, factor) => product * Math.max(factor, 1), headDim);
  if (bound > LIMIT)
    throw new IntFlashError('ERR_OVERFLOW', `Expected scores of at most 2^100, got up to ${bound.toExponential(2)}`);
}
