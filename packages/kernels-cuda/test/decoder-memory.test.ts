import { describe, expect, it } from 'vitest';
import { decoderMemory } from '../src/decoder-memory.js';

describe('decoderMemory', () => {
  // An image of a layer and KV head: 64 keys, 64 values, and three float32 a token; and a float32 for what goes on behind them.
  it.each([
    [8, 64 * (2 * 64 + 12) + 4, 64 * (2 * 32 + 12) + 4],
    [64, 64 * (2 * 64 + 12) + 4, 64 * (2 * 32 + 12) + 4],
    [72, 64 * (2 * 128 + 12) + 4, 64 * (2 * 64 + 12) + 4],
    [256, 64 * (2 * 256 + 12) + 4, 64 * (2 * 128 + 12) + 4],
  ])('head dim %i', (headDim, int8, int4) => {
    expect(decoderMemory(7, { layers: 1, kvHeads: 1, headDim })).toEqual({ deviceBytes: 7, pageBytes: { int8, int4 } });
    expect(decoderMemory(7, { layers: 3, kvHeads: 5, headDim })!.pageBytes.int8).toBe(15 * int8);
  });

  it('knows nothing of heads that the kernels do not hold', () => {
    expect(decoderMemory(7, { layers: 1, kvHeads: 1, headDim: 264 })).toBeUndefined();
  });
});
