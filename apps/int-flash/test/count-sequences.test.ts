import { fileURLToPath } from 'node:url';
import { type LanguageModel, loadModel } from '@int-flash/llm';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { countSequences, sequenceBytes } from '../src/experiments/count-sequences.js';

const folder = fileURLToPath(new URL('../../../models/int-flash-demo/', import.meta.url));
const { signal } = new AbortController();
/** Of the shipped model in INT8: 8 layers, 2 heads, 64 keys and values of 64 codes and a scale each. */
const PAGE = 8 * 2 * 64 * 2 * (64 + 4);
let model: LanguageModel;

beforeAll(async () => {
  model = await loadModel(folder, { kvCacheBytes: 22 * PAGE, prefixCache: false });
}, 60_000);

afterAll(async () => {
  expect(model.status()).toMatchObject({ sessions: 0, kvCacheBytes: 0 });
  await model.dispose();
});

it('counts sequences that a cache holds, and shows it as it fills', { timeout: 60_000 }, async () => {
  const seen: unknown[] = [];
  const watch = async (sequences: number, isFull: boolean) =>
    void seen.push([sequences, isFull, model.status().kvCacheBytes / PAGE]);
  expect(await countSequences(model, signal, { tokens: 256, watch })).toBe(5);
  expect(seen).toEqual([
    [1, false, 4],
    [2, false, 8],
    [3, false, 12],
    [4, false, 16],
    [5, true, 20],
  ]);
  expect(await countSequences(model, signal)).toBe(1);
});

it('says what a sequence takes', async () => {
  expect(await sequenceBytes(model, 64)).toBe(PAGE);
  expect(await sequenceBytes(model, 65)).toBe(2 * PAGE);
});

it('ends when it is aborted, and holds nothing then', async () => {
  await expect(countSequences(model, AbortSignal.abort('enough'))).rejects.toBe('enough');
});
