import { IntFlashError } from '@int-flash/ops';

/** Beyond it a sum of scores or values could leave float32. */
export const MAX_SCORE = 2 ** 100;

/**
 * @param query Bound of |q|: 127 times the largest scale where queries are codes. `key` likewise.
 * @throws {IntFlashError} `ERR_OVERFLOW` when a score could come near the end of float32's range.
 */
export function checkScoreBound(query: number, key: number, headDim: number, scale: number): void {
  // Each factor counts as at least 1: a partial product is formed before the others can make it small.
  const bound = [query, key, scale * Math.LOG2E].reduce((product, factor) => product * Math.max(factor, 1), headDim);
  if (bound > MAX_SCORE) throw tooLarge('scores', bound);
}

export function tooLarge(what: string, bound: number): IntFlashError {
  return new IntFlashError(
    'ERR_OVERFLOW',
    `Expected ${what} of at most 2^100 in magnitude, got up to ${bound.toExponential(2)}`,
    {
      hint: 'Scale the inputs down.',
    },
  );
}
