import { describe, expect, it } from 'vitest';
import { KvCaches } from '../src/kv-caches.js';
import { Pace } from '../src/pace.js';
import { Transformer } from '../src/transformer.js';
import { CONFIG, DeviceModels, GREEDY, PAGE_BYTES } from './device-models.js';
import { SEQUENCE_BYTES } from './fake-device.js';
import { abortAtRandom, answer, type Request, SPARE_TOKENS } from './requests.js';
import { tinyDraws } from './tiny-model.js';

const { integer, tokens } = tinyDraws(5);
const models = new DeviceModels();

describe('sequences that share too few pages of a device', () => {
  it('get what each of 1,000 gets alone, a third aborted at random, and no page is lost', {
    timeout: 120_000,
  }, async () => {
    const beginnings = [tokens(130), tokens(64), tokens(700)];
    const isDoomed = (i: number) => i % 3 === 0;
    const requests = Array.from({ length: 1000 }, (_, i): Request => {
      const length = i % 20 === 0 ? 1000 + integer(200) : i % 5 === 0 ? integer(400) : integer(120);
      const speculate = 3 * integer(3);
      const maxTokens = (isDoomed(i) ? SPARE_TOKENS : 0) + 1 + integer(60);
      const drawn = { maxTokens, ignoreEos: true, speculate, ...(i % 2 === 0 && { logprobs: 1 }) };
      const rules = i % 3 === 1 ? { temperature: 1, seed: integer(1000) } : { temperature: 0 };
      const own = tokens(1 + length);
      const prompt = integer(2) === 0 ? own : [...beginnings[integer(3)]!, ...own];
      return { prompt, options: { ...drawn, ...rules } };
    });
    const expected = await models.alone(requests);
    const pages = 40;
    const calls = new Set(models.device.steps.flat());
    models.device.peak = 0;
    models.device.steps.length = 0;
    await using tight = await models.model(pages);
    let next = 0;
    const aborted: number[] = []; // tokens that each had got
    const work = async () => {
      while (next < requests.length) {
        const i = next++;
        if (isDoomed(i)) {
          const after = i % 2 === 0 ? integer(2) * integer(60) : undefined; // of half of them at once: the prompt is waiting then, or being read
          aborted.push(await abortAtRandom(tight, requests[i]!, integer, after));
        } else {
          expect(await answer(tight, requests[i]!), `request ${i}`).toBe(expected[i]);
        }
      }
    };
    const atOnce = 20;
    await Promise.all(Array.from({ length: atOnce }, work));
    expect(aborted).toHaveLength(334);
    expect(aborted.filter((drawn) => drawn === 0).length).toBeGreaterThan(0);
    expect(aborted.filter((drawn) => drawn > 0).length).toBeGreaterThanOrEqual(167);
    // Alone prompts are read at once, among others mostly in chunks: the comparison was between different cuts.
    expect(Math.max(...calls)).toBeGreaterThan(1500);
    expect(models.device.steps.flat().filter((count) => count === 512).length).toBeGreaterThan(30);
    expect(tight.status()).toMatchObject({ sessions: 0, kvCacheBytes: 0, pages: { pages, used: 0 } });
    expect(models.device.kept).toBe(tight.status().pages.kept);
    expect(models.device.live).toBe(models.device.kept * PAGE_BYTES);
    expect(tight.status().preemptions).toBeGreaterThan(0);
    expect(tight.status().prefixes.found).toBeGreaterThan(3000);
    expect(models.device.peak).toBeLessThanOrEqual(pages * PAGE_BYTES + atOnce * SEQUENCE_BYTES);
    expect(models.device.peak).toBeGreaterThan((pages - 5) * PAGE_BYTES);
  });

  it('hold as many pages as there are, and get the same bits whoever gives way', async () => {
    const long = [1020, 1003, 1100, 990, 5].map((length) => ({
      prompt: tokens(length),
      options: { ...GREEDY, maxTokens: 150, logprobs: 0 },
    }));
    const expected = await models.alone(long);
    await using tight = await models.model(36);
    expect(await Promise.all(long.map((wanted) => answer(tight, wanted)))).toEqual(expected);
    expect(tight.status().preemptions).toBeGreaterThan(0);
    // The comparison can fail: cut otherwise, a prompt gets other bits.
    const otherwise = { ...long[0]!, options: { ...long[0]!.options, prefillChunk: 16 } };
    expect(await answer(tight, otherwise)).not.toBe(expected[0]);
  });

  it('are let in where the pages last for all that those before them want to have read', async () => {
    await using tight = await models.model(30);
    const lengths = [1800, 1300, 100];
    await Promise.all(
      lengths.map((length) => answer(tight, { prompt: tokens(length), options: { ...GREEDY, maxTokens: 1 } })),
    );
    // The first takes 29 pages of 30 in the end: nobody begins to be read beside it, to give its pages up half-way.
    expect(tight.status().preemptions).toBe(0);
    expect(models.device.steps.map((counts) => counts.length)).toEqual([1, 1, 1, 1, 2, 1]);
  });

  it('wait in the order in which they came', async () => {
    await using tight = await models.model(10);
    const ends: string[] = [];
    const run = (name: string, length: number, maxTokens: number) =>
      answer(tight, { prompt: tokens(length), options: { ...GREEDY, maxTokens } }).then(() => ends.push(name));
    // Beside the first there is room for the third, but not for the second.
    await Promise.all([run('first', 500, 30), run('second', 400, 1), run('third', 60, 1)]);
    expect(ends).toEqual(['first', 'second', 'third']);
    expect(models.device.steps.slice(0, 30)).toEqual([[500], ...new Array(29).fill([1])]);
  });

  // Beyond 1,024 keys, calls of up to eight tokens have other bits than larger ones; the first call has its own.
  it.each([
    [5, [5, 29]],
    [900, [900, 29]],
    [1020, [1020, 8, 8, 8, 5]],
    [1500, [1500, 8, 8, 8, 5]],
  ])('give up their pages when nobody reads on, and go on when somebody does: %i tokens', async (length, again) => {
    const idle = { prompt: tokens(length), options: { ...GREEDY, maxTokens: 40 } };
    const [expected] = await models.alone([idle]);
    await using tight = await models.model(32);
    const reading = tight.generate(idle.prompt, idle.options);
    const told: unknown[] = [];
    for (let i = 0; i < 30; i++) told.push((await reading.next()).value!.tokenId, undefined);
    const used = Math.ceil((length + 29) / 64);
    expect(tight.status()).toMatchObject({
      kvCacheBytes: used * PAGE_BYTES + SEQUENCE_BYTES,
      pages: { pages: 32, used },
    });
    await answer(tight, { prompt: tokens(2040), options: { ...GREEDY, maxTokens: 1 } });
    expect(tight.status()).toMatchObject({ preemptions: 1, sessions: 1, kvCacheBytes: 0, pages: { used: 0 } });
    models.device.steps.length = 0;
    for await (const { tokenId } of reading) told.push(tokenId, undefined);
    expect(JSON.stringify(told)).toBe(expected);
    expect(models.device.steps.flat()).toEqual([...again, ...new Array(10).fill(1)]);
  });

  it('end when they are aborted while put aside or waiting', async () => {
    await using tight = await models.model(32);
    const controller = new AbortController();
    const idle = tight.generate(tokens(1500), { ...GREEDY, signal: controller.signal });
    await idle.next();
    const holder = tight.generate(tokens(1900), GREEDY);
    await holder.next();
    const putAside = idle.next().catch((reason) => reason);
    const waiting = answer(tight, { prompt: tokens(1500), options: { ...GREEDY, signal: controller.signal } });
    const survivor = answer(tight, { prompt: tokens(700), options: { ...GREEDY, maxTokens: 3 } });
    controller.abort('enough');
    expect(await putAside).toBe('enough');
    await expect(waiting).rejects.toBe('enough');
    expect(JSON.parse(await survivor)).toHaveLength(6);
    await holder.return();
    expect(tight.status()).toMatchObject({ sessions: 0, kvCacheBytes: 0, pages: { used: 0 } });
  });

  it('fill the cache until one has to give its pages up', async () => {
    await using tight = await models.model(100);
    const held: AsyncIterator<unknown>[] = [];
    while (tight.status().preemptions === 0) {
      const generation = tight.generate(tokens(2046), { ...GREEDY, maxTokens: 2 });
      held.push(generation);
      await generation.next();
    }
    expect(held).toHaveLength(4); // three of 32 pages, and one too many
    for (const generation of held) await generation.return?.();
  });

  it('are read with all logits as one alone is', async () => {
    const ids = tokens(1200);
    await using roomy = await models.model();
    const expected = await roomy.logits(ids);
    await using tight = await models.model(20);
    const busy = answer(tight, { prompt: tokens(600), options: { ...GREEDY, maxTokens: 100 } });
    expect(await tight.logits(ids)).toEqual(expected);
    expect((await tight.perplexity(ids, { window: 600 })).predicted).toBe(1198);
    await busy;
  });
});

describe('the memory of a device', () => {
  it('decides how long a sequence may be, and is refused when it holds nothing', async () => {
    await using tight = await models.model(3);
    expect(tight.contextLength).toBe(192);
    expect(() => tight.generate(tokens(192))).toThrowError(
      expect.objectContaining({ code: 'ERR_ARG_RANGE', message: 'Expected 1 to 191 tokens, got 192' }),
    );
    const full = tight.generate(tokens(180), { ...GREEDY, maxTokens: 100 });
    for await (const _ of full);
    expect(full.stats).toMatchObject({ newTokens: 12, finishReason: 'length' });
    const caches = new KvCaches(CONFIG, { bytes: PAGE_BYTES - 1 }, models.device.backend());
    expect(() => caches.contextLength('int8', 'int8')).toThrowError(
      expect.objectContaining({ code: 'ERR_ARG_RANGE', message: expect.stringContaining(`${PAGE_BYTES} bytes`) }),
    );
    expect(caches.contextLength('int8', 'int4')).toBe(64); // pages of 600 bytes
    expect(() => caches.contextLength('fp32', 'int8')).toThrowError('got 999'); // a page in host memory
  });

  it('is taken for 64 sequences of full length, but never more than three quarters of what is left', () => {
    const pagesOf = (bytes: number, dtypes: readonly ('int8' | 'int4')[]) => {
      const caches = new KvCaches(CONFIG, {}, models.device.backend(bytes));
      for (const dtype of dtypes) caches.contextLength('int8', dtype);
      return caches.counts().pages;
    };
    expect(pagesOf(1e9, ['int8'])).toBe(64 * 32);
    expect(pagesOf(1_000_000, ['int8'])).toBe(750);
    expect(pagesOf(1_000_000, ['int8', 'int8', 'int4'])).toBe(750 + Math.floor((0.75 * 250_000) / 600));
    models.device.live = 400_000; // weights
    expect(pagesOf(1_000_000, ['int8'])).toBe(450);
    expect(pagesOf(300_000, ['int8'])).toBe(1);
    models.device.live = 0;
  });

  it('bounds the pages that are counted, whatever the limit', async () => {
    for (const bytes of [1e9 + 1, 2 ** 45, Number.MAX_SAFE_INTEGER]) {
      const caches = new KvCaches(CONFIG, { bytes }, models.device.backend(1e9));
      expect(caches.contextLength('int8', 'int8')).toBe(CONFIG.maxPositions);
      expect(caches.counts().pages).toBe(1e9 / PAGE_BYTES);
    }
  });

  it('is not the memory of sequences with other arithmetic', async () => {
    await using tight = await models.model(200);
    const other = { ...GREEDY, maxTokens: 2, attention: 'fp32', kvCacheDtype: 'fp32' } as const;
    const generation = tight.generate(tokens(100), other);
    await generation.next();
    expect(models.device.live).toBe(0);
    expect(tight.status().pages.used).toBe(2);
    await generation.return();
  });

  it('may end before the limit does: who needs it fails, the others get on', async () => {
    await using tight = await models.model(100);
    const small = { prompt: tokens(100), options: { ...GREEDY, maxTokens: 20 } };
    const [expected] = await models.alone([small]);
    models.device.capacity = 6 * PAGE_BYTES;
    const ends = await Promise.allSettled([
      answer(tight, small),
      answer(tight, { prompt: tokens(600), options: GREEDY }),
    ]);
    expect(ends[0]).toEqual({ status: 'fulfilled', value: expected });
    expect(ends[1]).toMatchObject({ status: 'rejected', reason: { code: 'ERR_OOM', where: 'device' } });
    expect(tight.status()).toMatchObject({ sessions: 0, kvCacheBytes: 0, pages: { used: 0 } });
  });

  it('has no page for a sequence by itself when others hold them all', async () => {
    const backend = models.device.backend();
    const caches = new KvCaches(CONFIG, { bytes: 2 * PAGE_BYTES }, backend);
    const transformer = new Transformer(CONFIG, models.weights, backend, caches);
    const [one, other] = [0, 1].map(() => transformer.createCache('int8', 'int8'));
    const run = (cache: typeof one, ids: number[]) =>
      transformer.forward(ids, { cache: cache!, attention: 'int8', pace: new Pace() });
    await run(one, tokens(65));
    await expect(run(other, tokens(1))).rejects.toMatchObject({ code: 'ERR_OOM', where: 'device' });
    await expect(run(one, tokens(64))).rejects.toMatchObject({ code: 'ERR_SHAPE' });
    expect([one!.length, other!.length, caches.counts().used, models.device.sequences]).toEqual([65, 0, 2, 1]);
    one!.truncate(64);
    await run(other, tokens(1));
    expect(() => one!.truncate(-1)).toThrowError(expect.objectContaining({ code: 'ERR_ARG_RANGE' }));
    for (const cache of [one!, other!, one!]) cache.dispose();
    expect(caches.counts().used).toBe(0);
    await expect(run(one, tokens(1))).rejects.toMatchObject({ code: 'ERR_DISPOSED' });
    transformer.dispose();
  });

  it('is free again after a step that fails, and the sequence goes on from where it was', async () => {
    const backend = models.device.backend();
    const transformer = new Transformer(CONFIG, models.weights, backend, new KvCaches(CONFIG, {}, backend));
    const caches = [0, 1].map(() => transformer.createCache('int8', 'int8'));
    const step = (ids: readonly number[][]) =>
      transformer.forwardBatch(
        ids.map((part, i) => ({ ids: part, cache: caches[i]!, attention: 'int8' as const })),
        new Pace(),
      );
    await step([tokens(60), tokens(3)]);
    models.device.onStep = () => {
      throw new Error('at fault');
    };
    await expect(step([tokens(500), tokens(500)])).rejects.toThrow('at fault');
    expect(caches.map(({ length, pageCount }) => [length, pageCount])).toEqual([
      [60, 1],
      [3, 1],
    ]);
    expect(models.device.live).toBe(2 * (PAGE_BYTES + SEQUENCE_BYTES));
    models.device.onStep = () => {};
    await step([[1], [2]]);
    for (const cache of caches) cache.dispose();
    transformer.dispose();
  });

  it('is given back when the model is disposed, once all of it is free', async () => {
    const model = await models.model(100);
    await answer(model, { prompt: tokens(300), options: { ...GREEDY, maxTokens: 2 } });
    expect(models.device.live).toBe(4 * PAGE_BYTES); // kept for prompts to come
    expect(models.device.trims).toEqual([]);
    await model.dispose();
    expect(models.device.trims).toEqual([0]);
  });

  it('is given back when the model is disposed while a request that was aborted is still in a step', async () => {
    const model = await models.model(100);
    const controller = new AbortController();
    const begun = new Promise<void>((resolve) => {
      models.device.onBegin = resolve;
    });
    const reading = answer(model, { prompt: tokens(2000), options: { ...GREEDY, signal: controller.signal } });
    const ended = reading.catch((reason) => reason);
    await begun;
    controller.abort('enough');
    expect(model.status()).toMatchObject({ sessions: 1, pages: { used: 32 } }); // until the step ends
    await model.dispose();
    expect(models.device.trims).toEqual([0]);
    expect(await ended).toBe('enough');
    expect(model.status()).toMatchObject({ sessions: 0, kvCacheBytes: 0, pages: { used: 0 } });
  });

  it('is not taken again by a model that was disposed and is asked for its context', async () => {
    const model = await models.model(100);
    const { contextLength } = model;
    await model.dispose();
    expect(model.contextLength).toBe(contextLength);
    expect(models.device.decoders).toBe(0);
  });

  it('may be lost: everybody is told why, and nothing is held', async () => {
    await using tight = await models.model(100);
    const reading = tight.generate(tokens(100), GREEDY);
    await reading.next();
    models.device.isLost = true;
    const ends = await Promise.allSettled([
      (async () => {
        for await (const _ of reading);
      })(),
      answer(tight, { prompt: tokens(100), options: GREEDY }),
    ]);
    for (const end of ends) expect(end).toMatchObject({ status: 'rejected', reason: { code: 'ERR_DEVICE_LOST' } });
    expect(tight.status()).toMatchObject({ sessions: 0, kvCacheBytes: 0, pages: { used: 0 } });
  });
});
