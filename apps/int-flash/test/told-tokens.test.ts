import { describe, expect, it } from 'vitest';
import type { EngineToken } from '../src/serve/engine.js';
import { ToldTokens } from '../src/serve/told-tokens.js';

/** Numbers of the tokens that are told with each one; `drawn` and `returned` hold the text of each. */
function toldWith(drawn: readonly string[], returned: readonly string[], canBeCut = true): number[][] {
  const told = new ToldTokens(canBeCut);
  let textEnd = 0;
  return drawn.map((piece, tokenId) => {
    textEnd += piece.length;
    const last = tokenId === drawn.length - 1 ? { finishReason: 'stop' as const } : {};
    const token: EngineToken = { tokenId, text: returned[tokenId]!, logprob: -1, textEnd, ...last };
    return told.push(token).map((one) => one.tokenId);
  });
}

describe('the tokens an answer tells of', () => {
  it.each([
    ['all, each with its text', ['a', 'b'], ['a', 'b'], [[0], [1]]],
    ['none of a stop string', ['Hello', '!', ' N'], ['Hello', '', ''], [[0], [], []]],
    ['one that is partly cut', ['Hello', '!', ' N'], ['Hell', '', ''], [[0], [], []]],
    ['one that is partly cut behind others', ['a', 'bc', 'd'], ['a', 'b', ''], [[0], [1], []]],
    ['what was taken for a stop string', ['a', 'b', 'c'], ['', '', 'abc'], [[], [], [0, 1, 2]]],
    ['both of a character in two', ['a', '', 'é', 'b'], ['a', '', 'é', 'b'], [[0], [], [1, 2], [3]]],
    ['neither of one that is cut', ['a', '', 'é', 'b'], ['a', '', '', ''], [[0], [], [], []]],
    ['an end token', ['a', ''], ['a', ''], [[0], [1]]],
  ])('%s', (_, drawn, returned, told) => {
    expect(toldWith(drawn, returned)).toEqual(told);
  });

  it('holds nothing back where nothing can be cut', () => {
    expect(toldWith(['a', '', 'é'], ['a', '', 'é'], false)).toEqual([[0], [1], [2]]);
  });
});
