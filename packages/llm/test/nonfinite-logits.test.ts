import { selectBackend } from '@int-flash/attention';
import { describe, expect, it } from 'vitest';
import { KvCaches } from '../src/kv-caches.js';
import { LanguageModel } from '../src/language-model.js';
import { parseModelConfig } from '../src/model-config.js';
import { loadWeights } from '../src/model-weights.js';
import { randomModelFiles } from '../src/random-model.js';
import { TINY_SHAPE } from './tiny-model.js';

const NON_FINITE = expect.objectContaining({ code: 'ERR_NONFINITE' });

/** @param gain Of the last norm, half of it negative: with the largest there is, weights are finite and logits are not. */
async function modelWith(gain: number): Promise<LanguageModel> {
  const backend = selectBackend('portable');
  const config = parseModelConfig(TINY_SHAPE);
  const files = randomModelFiles(TINY_SHAPE);
  const weights = await loadWeights(files.weights, backend, 'fp32');
  weights.outputNorm.gain.fill(gain).fill(-gain, TINY_SHAPE.hidden_size / 2);
  return new LanguageModel({
    config,
    generation: {},
    tokenizer: await files.readTokenizer(),
    weights,
    backend,
    caches: new KvCaches(config, {}, backend),
    attention: 'int8',
    kvCacheDtype: 'int8',
    linear: 'fp32',
  });
}

const overflowingModel = () => modelWith(3e38);

describe('a model whose logits overflow', () => {
  it.each([
    { temperature: 0 },
    { temperature: 0, logprobs: 2 },
    { temperature: 1 },
    { temperature: 1, topP: 0.9, topK: 5 },
    { temperature: 1, logprobs: 0 },
    { temperature: 0, speculate: 4 },
    { temperature: 0, repeatPenalty: 1.1 },
  ])('gives no answer, but says why: %j', async (options) => {
    await using model = await overflowingModel();
    await expect(model.generate([5, 7, 6], { ...options, maxTokens: 3 }).text()).rejects.toThrowError(NON_FINITE);
    expect(model.status()).toMatchObject({ sessions: 0, kvCacheBytes: 0 });
  });

  it('has no perplexity, but tells its logits', async () => {
    await using model = await overflowingModel();
    await expect(model.perplexity([5, 7, 6])).rejects.toThrowError(NON_FINITE);
    expect((await model.logits([5, 7, 6])).every(Number.isFinite)).toBe(false);
    expect(model.status()).toMatchObject({ sessions: 0, kvCacheBytes: 0 });
  });
});

it('bans of all tokens leave nothing to draw, and are told so', async () => {
  await using model = await modelWith(1);
  const draw = (banned: number) => {
    const logitBias = Object.fromEntries(Array.from({ length: banned }, (_, id) => [id, -Infinity]));
    return model.generate([5, 7, 6], { logitBias, maxTokens: 1, ignoreEos: true }).text();
  };
  expect(await draw(TINY_SHAPE.vocab_size - 1)).toBe(`t${TINY_SHAPE.vocab_size - 1}`);
  await expect(draw(TINY_SHAPE.vocab_size)).rejects.toThrowError(NON_FINITE);
});
