/** Tokens that a place must have in common with the end to be worth following: the longer, the likelier it goes on alike. */
const MATCHES = [4, 3, 2];

/**
 * Guesses how a text goes on from an earlier place in it where the same tokens stood: answers repeat names, quotes and lists of their
 * prompt. Costs no model (prompt look-up decoding).
 *
 * @param ids All tokens so far.
 * @param max Tokens to guess.
 * @returns none when the end occurs nowhere before.
 */
export function lookUpContinuation(ids: readonly number[], max: number): number[] {
  if (max <= 0) return []; // looking takes longer as the text grows
  for (const length of MATCHES) {
    for (let start = ids.length - length - 1; start >= 0; start--) {
      if (isMatch(ids, start, length)) return ids.slice(start + length, start + length + max);
    }
  }
  return [];
}

function isMatch(ids: readonly number[], start: number, length: number): boolean {
  for (let i = 0; i < length; i++) if (ids[start + i] !== ids[ids.length - length + i]) return false;
  return true;
}
