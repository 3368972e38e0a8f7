import { describe, expect, it } from 'vitest';
import { decoderMemory } from '../src/decoder-memory.js';

const STEP = { heads: 32, hiddenSize: 4096, intermediateSize: 14336 };

describe('decoderMemory', () => {
  // An image of a layer and KV head: 64 keys, 64 values, and three float32 a token; and a float32 for what goes on behind them.
  it.each([
    [8, 64 * (2 * 64 + 12) + 4, 64 * (2 * 32 + 12) + 4],
    [64, 64 * (2 * 64 + 12) + 4, 64 * (2 * 32 + 12) + 4],
    [72, 64 * (2 * 128 + 12) + 4, 64 * (2 * 64 + 12) + 4],
    [256, 64 * (2 * 256 + 12) + 4, 64 * (2 * 128 + 12) + 4],
  ])('head dim %i', (headDim, int8, int4) => {
    const one = { ...STEP, layers: 1, kvHeads: 1, headDim };
    expect(decoderMemory(7, one)).toMatchObject({ deviceBytes: 7, pageBytes: { int8, int4 } });
    expect(decoderMemory(7, { ...one, layers: 3, kvHeads: 5 })!.pageBytes.int8).toBe(15 * int8);
  });

  it('holds a token of a step for any number of layers', () => {
    const shape = { ...STEP, kvHeads: 8, headDim: 128 };
    const { tokenBytes } = decoderMemory(7, { ...shape, layers: 32 })!;
    expect(decoderMemory(7, { ...shape, layers: 1 })!.tokenBytes).toBe(tokenBytes);
    // The largest of them: an MLP's middle in float32 and as the library's sums, its input in float32, twice, and as codes.
    expect(tokenBytes).toBeGreaterThan(2 * 4 * 2 * 14336 + 9 * 14336);
    expect(tokenBytes).toBeLessThan(1.2 * (2 * 4 * 2 * 14336 + 9 * 14336));
  });

  it('knows nothing of heads that the kernels do not hold', () => {
    expect(decoderMemory(7, { ...STEP, layers: 1, kvHeads: 1, headDim: 264 })).toBeUndefined();
  });
});
