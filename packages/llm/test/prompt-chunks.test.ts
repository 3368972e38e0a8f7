import { IntFlashError } from '@int-flash/ops';
import { describe, expect, it } from 'vitest';
import { chunkBehind } from '../src/device-cache.js';
import { KvCaches } from '../src/kv-caches.js';
import type { LanguageModel } from '../src/language-model.js';
import { Transformer } from '../src/transformer.js';
import { CONFIG, DeviceModels, GREEDY } from './device-models.js';
import { answer } from './requests.js';
import { tinyDraws } from './tiny-model.js';

const { tokens } = tinyDraws(11);
const models = new DeviceModels();
const stepsOfMany = () => models.device.steps.map((counts) => counts.filter((count) => count > 8));
const read = (model: LanguageModel, length: number, options = {}) =>
  answer(model, { prompt: tokens(length), options: { ...GREEDY, maxTokens: 1, ...options } });

describe('a prompt on a device', () => {
  it('is read at once where nobody else is there', async () => {
    await using model = await models.model(1000);
    await read(model, 2000, { maxTokens: 3 });
    expect(models.device.steps).toEqual([[2000], [1], [1]]);
  });

  it('shares the step with others, 512 tokens of each', async () => {
    await using model = await models.model(1000);
    await Promise.all([1500, 1500, 100].map((length) => read(model, length)));
    expect(models.device.steps).toEqual([
      [512, 512, 100],
      [512, 512],
      [476, 476],
    ]);
  });

  it('shares it with three others at most where all are that long, first come, first served', async () => {
    await using model = await models.model(1000);
    await Promise.all([500, 501, 502, 503, 504, 505].map((length) => read(model, length)));
    expect(models.device.steps).toEqual([
      [500, 501, 502, 503],
      [504, 505],
    ]);
  });

  it('takes 512 tokens a step from answers under way, all prompts together, and more again when they are over', async () => {
    await using model = await models.model(1000);
    const answering = model.generate(tokens(20), { ...GREEDY, maxTokens: 4 });
    await answering.next();
    models.device.steps.length = 0;
    const rest = answering.text();
    await Promise.all([rest, read(model, 2000), read(model, 300), read(model, 212)]);
    const steps = models.device.steps.map((counts) => [...counts].sort((one, other) => one - other));
    expect(steps).toEqual([[1, 512], [1, 212, 300], [1, 512], [976]]);
  });

  it('takes 512 tokens a step beside an answer whose reader pauses', async () => {
    await using model = await models.model(1000);
    const paused = model.generate(tokens(20), GREEDY);
    await paused.next();
    models.device.steps.length = 0;
    await read(model, 1300);
    await paused.return();
    await read(model, 1300);
    expect(models.device.steps).toEqual([[512], [512], [276], [1300]]);
  });

  // A call of up to eight tokens beyond 1,024 keys has bits of its own, so a cut that leaves so few is none.
  it.each([513, 520, 521, 1025, 1029, 1032, 1033, 1540, 1544, 1545, 2040])(
    'of %i tokens has the same bits in whatever steps it is read',
    async (length) => {
      const request = { prompt: tokens(length), options: { ...GREEDY, maxTokens: 4, logprobs: 0 } };
      const [expected] = await models.alone([request]);
      await using model = await models.model(1000, false);
      const paused = model.generate(tokens(20), GREEDY);
      await paused.next();
      models.device.steps.length = 0;
      expect(await answer(model, request)).toBe(expected);
      const calls = stepsOfMany().flat();
      expect(calls.reduce((sum, count) => sum + count, 0)).toBe(length);
      expect(Math.max(...calls)).toBeLessThanOrEqual(512);
      // Cut as somebody says, the last call may be of few: the comparison can fail.
      const rest = length % 512;
      if (length > 1024 && rest > 0 && rest <= 8) {
        const cut = { ...request, options: { ...request.options, prefillChunk: 512 } };
        expect(await answer(model, cut)).not.toBe(expected);
      }
      await paused.return();
    },
  );

  it.each([true, false])('is computed again in short steps too, somebody else answered: %s', async (isBusy) => {
    const request = { prompt: tokens(1541), options: { ...GREEDY, maxTokens: 8, logprobs: 0 } };
    const [expected] = await models.alone([request]);
    await using model = await models.model(40, false);
    const reading = model.generate(request.prompt, request.options);
    const told: unknown[] = [];
    const take = async () => {
      const { tokenId, logprob } = (await reading.next()).value!;
      told.push(tokenId, logprob);
    };
    for (let i = 0; i < 4; i++) await take();
    await read(model, 1300);
    expect(model.status()).toMatchObject({ preemptions: 1, pages: { used: 0 } });
    const paused = model.generate(tokens(20), GREEDY);
    if (isBusy) await paused.next();
    models.device.steps.length = 0;
    for (let i = 0; i < 4; i++) await take();
    expect(JSON.stringify(told)).toBe(expected);
    expect(models.device.steps.flat()).toEqual([...(isBusy ? [512, 512, 448, 69] : [1541]), 3, 1, 1, 1, 1]);
    await paused.return();
  });

  it('has the bits that it has alone where its logits are wanted', async () => {
    const prompt = tokens(1029); // 8 x 128 and five more
    await using model = await models.model(1000);
    const generation = model.generate(prompt, { ...GREEDY, maxTokens: 1, logprobs: 0 });
    const { logprob, tokenId } = (await generation.next()).value!;
    await generation.return();
    const logits = (await model.logits(prompt)).subarray(-CONFIG.vocabSize);
    const highest = Math.max(...logits);
    const sum = logits.reduce((total, logit) => total + Math.exp(logit - highest), 0);
    expect(logits[tokenId]! - highest - Math.log(sum)).toBeCloseTo(logprob!, 6);
  });

  it('is read in short steps from when the memory ended before a long one did', async () => {
    const requests = [1500, 700].map((length) => ({ prompt: tokens(length), options: { ...GREEDY, logprobs: 0 } }));
    const short = requests.map(({ prompt, options }) => ({ prompt, options: { ...options, maxTokens: 3 } }));
    const expected = await models.alone(short);
    await using model = await models.model(1000);
    models.device.steps.length = 0;
    models.device.onStep = (ids) => {
      if (ids.reduce((sum, { length }) => sum + length, 0) > 600)
        throw new IntFlashError('ERR_OOM', 'Expected memory for a step', { where: 'device' });
    };
    for (const [i, request] of short.entries()) expect(await answer(model, request)).toBe(expected[i]);
    expect(models.device.steps.flat()).toEqual([512, 512, 476, 1, 1, 512, 188, 1, 1]);
    // Chunks that somebody asked for are not cut.
    await expect(read(model, 1500, { prefillChunk: 1000 })).rejects.toMatchObject({ code: 'ERR_OOM' });
  });

  it('is read in long steps still when memory ended for other reasons', async () => {
    await using model = await models.model(1000);
    const full = () => {
      throw new IntFlashError('ERR_OOM', 'Expected memory for a step', { where: 'device' });
    };
    // What somebody asked for is too much …
    models.device.onStep = (ids) => ids.some(({ length }) => length === 1999) && full();
    await expect(read(model, 2000, { prefillChunk: 1999 })).rejects.toMatchObject({ code: 'ERR_OOM' });
    // … or two answers get no page.
    let isFull = true;
    models.device.onStep = (ids) => {
      if (!isFull || ids.length < 2 || ids.some(({ length }) => length > 1)) return;
      isFull = false;
      full();
    };
    await Promise.all([20, 30].map((length) => read(model, length, { maxTokens: 5 })));
    expect(isFull).toBe(false);
    models.device.steps.length = 0;
    await read(model, 1500);
    expect(models.device.steps).toEqual([[1500]]);
  });

  it('is read in short steps from when it did not last for several prompts together', async () => {
    await using model = await models.model(1000);
    models.device.onStep = (ids) => {
      if (ids.reduce((sum, { length }) => sum + length, 0) > 600)
        throw new IntFlashError('ERR_OOM', 'Expected memory for a step', { where: 'device' });
    };
    await Promise.all([600, 700].map((length) => read(model, length)));
    expect(models.device.steps).toEqual([[512], [512], [88, 188]]);
  });

  it('ends between its chunks when it is aborted', async () => {
    await using model = await models.model(1000);
    const paused = model.generate(tokens(20), GREEDY);
    await paused.next();
    models.device.steps.length = 0;
    const controller = new AbortController();
    models.device.onStep = () => controller.abort('enough');
    await expect(read(model, 2000, { signal: controller.signal })).rejects.toBe('enough');
    models.device.onStep = () => {};
    await paused.return();
    expect(models.device.steps).toEqual([[512]]);
    expect(model.status()).toMatchObject({ sessions: 0, kvCacheBytes: 0, pages: { used: 0 } });
  });
});

describe('a step on a device', () => {
  it.each([
    [1e9, 8192],
    [2_000_000, 1024],
    [300_000, 512],
  ])('of %i bytes has room for %i tokens of prompts beside the pages', (bytes, tokens) => {
    // Half of the quarter that pages leave, 200 bytes a token, in chunks of 512; never fewer than one.
    const backend = models.device.backend(bytes);
    const transformer = new Transformer(CONFIG, models.weights, backend, new KvCaches(CONFIG, {}, backend));
    const cache = transformer.createCache('int8', 'int8');
    expect([cache.chunk, cache.longChunk]).toEqual([512, tokens]);
    cache.dispose();
    transformer.dispose();
  });

  // Whoever comes meanwhile waits for its end, and every token reads all keys before it.
  it('is shorter behind many keys, so that it takes no longer', () => {
    const keys = [0, 512, 4096, 8192, 16_384, 32_768, 65_536, 131_072, 1e9];
    expect(keys.map(chunkBehind)).toEqual([8192, 7680, 6656, 5632, 4096, 2560, 1536, 512, 512]);
  });
});
