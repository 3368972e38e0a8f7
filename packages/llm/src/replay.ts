import { KV_PAGE_TOKENS } from '@int-flash/ops';

/** Up to so many queries backends split the keys into runs … */
export const FEW_QUERIES = 8;
/** … of this many; among fewer keys that changes nothing (docs/arithmetic.md, "The other precisions"). */
export const RUN_KEYS = 1024;

/**
 * Tokens that are to be computed again in the next call, so that they get the bits they had.
 *
 * @param calls Tokens of each call that computed the sequence.
 * @param done  Tokens that are there again.
 * @param isExact Whether a token's bits depend on nothing but the tokens before it, the first call, and whether its own call was of few.
 */
export function replayLength(calls: readonly number[], done: number, isExact: boolean): number {
  let index = 0;
  let before = 0;
  while (before + calls[index]! <= done) before += calls[index++]!;
  let length = before + calls[index]! - done;
  if (!isExact || done === 0) return length;
  for (let next = calls[++index]; next !== undefined; next = calls[++index]) {
    const together = length + next;
    const isShort = together <= FEW_QUERIES || (together <= KV_PAGE_TOKENS && done + together <= RUN_KEYS);
    if (!isShort) break;
    length = together;
  }
  return length;
}
