import { describe, expect, it } from 'vitest';
import { DeviceModels, GREEDY, PAGE_BYTES } from './device-models.js';
import { SEQUENCE_BYTES } from './fake-device.js';
import { answer } from './requests.js';
import { tinyDraws } from './tiny-model.js';

const { tokens } = tinyDraws(7);
const models = new DeviceModels();

describe('prompts that begin alike', () => {
  const options = { ...GREEDY, maxTokens: 30, logprobs: 0 } as const;

  it('of a conversation: each turn gets what it gets alone, and reads little anew', async () => {
    for (const length of [25, 70, 1000, 1500]) {
      await using roomy = await models.model(1000);
      let prompt = tokens(length);
      for (let i = 0, before = 0; i < 4; i++) {
        const { found } = roomy.status().prefixes;
        const request = { prompt, options: { ...options, maxTokens: 70 } };
        const [expected] = await models.alone([request]);
        const said = await answer(roomy, request);
        expect(said, `turn ${i} of ${length}`).toBe(expected);
        // From the third turn on at the latest, all whole pages of the last turn's prompt are there.
        if (i >= 2) expect(roomy.status().prefixes.found - found).toBeGreaterThan(before - 64);
        before = prompt.length;
        const ids = (JSON.parse(said) as number[]).filter((_, at) => at % 2 === 0);
        prompt = [...prompt, ...ids, ...tokens(20)];
      }
    }
  });

  // Beyond 1,024 keys, calls of up to eight tokens have other bits: where the last one would be cut otherwise, less is taken over.
  it.each([300, 1030, 1090, 1094, 1100, 1536, 1539, 1544, 1545, 2000])('and are %i tokens long', async (length) => {
    await using roomy = await models.model(1000);
    const beginning = tokens(7 * 64 + 10);
    const long = tokens(1450);
    const requests = [beginning, beginning, long, [...long.slice(0, 1410)]].map((first) => {
      return { prompt: [...first, ...tokens(Math.max(length - first.length, 1))], options };
    });
    const expected = await models.alone(requests);
    for (const [i, request] of requests.entries()) expect(await answer(roomy, request), `${i}`).toBe(expected[i]);
    expect(roomy.status().prefixes.found).toBeGreaterThanOrEqual(1000);
  });

  it('at the same moment: the beginning is computed once, and its pages are there once', async () => {
    await using roomy = await models.model(1000);
    const request = { prompt: tokens(400), options };
    const [expected] = await models.alone([request]);
    models.device.peak = 0;
    const answers = await Promise.all(Array.from({ length: 8 }, () => answer(roomy, request)));
    expect(new Set(answers)).toEqual(new Set([expected]));
    expect(roomy.status().prefixes).toEqual({ asked: 3200, found: 7 * 384 });
    expect(roomy.status()).toMatchObject({ kvCacheBytes: 0, pages: { used: 0, kept: 6 } });
    expect(models.device.peak).toBe((6 + 8) * PAGE_BYTES + 8 * SEQUENCE_BYTES);
  });

  it('give way to prompts that need the pages, or the memory', async () => {
    await using tight = await models.model(12);
    const first = { prompt: tokens(640), options };
    const second = { prompt: tokens(640), options };
    const expected = await models.alone([first, second]);
    expect(await answer(tight, first)).toBe(expected[0]);
    expect(tight.status().pages).toEqual({ pages: 12, used: 0, kept: 10 });
    expect(await answer(tight, second)).toBe(expected[1]);
    expect(tight.status()).toMatchObject({ preemptions: 0, pages: { used: 0 } });
    models.device.capacity = 12 * PAGE_BYTES; // less than the pages and a sequence: of those kept, all go
    expect(await answer(tight, first)).toBe(expected[0]);
  });

  it('and lie in other pools do not wait for each other', async () => {
    await using roomy = await models.model(1000);
    const prompt = tokens(400);
    const dtypes = ['int8', 'int4'] as const;
    await Promise.all(
      dtypes.map((kvCacheDtype) => answer(roomy, { prompt, options: { ...GREEDY, maxTokens: 2, kvCacheDtype } })),
    );
    // One step for both is two calls.
    expect(models.device.steps).toEqual([[400], [400], [1], [1]]);
  });

  it('are computed again in one call where they were taken over, put aside and given away meanwhile', async () => {
    const prompt = tokens(1500);
    const request = { prompt, options: { ...options, maxTokens: 8 } };
    const [expected] = await models.alone([request]);
    await using tight = await models.model(32);
    await answer(tight, { prompt, options: { ...GREEDY, maxTokens: 1 } });
    const reading = tight.generate(prompt, request.options);
    const told: unknown[] = [];
    const take = async () => {
      const { tokenId, logprob } = (await reading.next()).value!;
      told.push(tokenId, logprob);
    };
    for (let i = 0; i < 4; i++) await take();
    expect(tight.status().prefixes.found).toBe(23 * 64);
    await answer(tight, { prompt: tokens(2000), options: { ...GREEDY, maxTokens: 1 } });
    expect(tight.status()).toMatchObject({ preemptions: 1, pages: { used: 0 } });
    models.device.steps.length = 0;
    for (let i = 0; i < 4; i++) await take();
    expect(JSON.stringify(told)).toBe(expected);
    expect(models.device.steps.flat()).toEqual([23 * 64, 28, 3, 1, 1, 1, 1]);
  });

  it('may be taken over and then not be needed: whoever waits or is aborted holds nothing', async () => {
    await using tight = await models.model(20);
    const prompt = tokens(900);
    await answer(tight, { prompt, options: { ...GREEDY, maxTokens: 1 } });
    const holder = tight.generate(tokens(500), { ...GREEDY, maxTokens: 40 });
    await holder.next();
    const controller = new AbortController();
    const waiting = answer(tight, { prompt, options: { ...GREEDY, signal: controller.signal } });
    await holder.next();
    controller.abort('enough');
    await expect(waiting).rejects.toBe('enough');
    await holder.return();
    expect(tight.status()).toMatchObject({ sessions: 0, kvCacheBytes: 0, pages: { used: 0 } });
  });

  // Of 1,605 tokens the last call has 69. Computed again from token 1,600 on, five of them would be few, and get other bits.
  it.each([
    [1605, [69, 5]],
    [1610, [10, 5]],
  ])('are the same one: what was kept of its own %i tokens serves when it goes on', async (length, again) => {
    const idle = { prompt: tokens(length), options: { ...options, maxTokens: 12 } };
    const [expected] = await models.alone([idle]);
    await using tight = await models.model(40);
    const reading = tight.generate(idle.prompt, idle.options);
    const told: unknown[] = [];
    for (let i = 0; i < 6; i++) {
      const { tokenId, logprob } = (await reading.next()).value!;
      told.push(tokenId, logprob);
    }
    await answer(tight, { prompt: tokens(900), options: { ...GREEDY, maxTokens: 1 } });
    expect(tight.status()).toMatchObject({ preemptions: 1, pages: { used: 0, kept: 39 } });
    models.device.steps.length = 0;
    for await (const { tokenId, logprob } of reading) told.push(tokenId, logprob);
    expect(JSON.stringify(told)).toBe(expected);
    expect(models.device.steps.flat().slice(0, again.length)).toEqual(again);
  });

  it('are computed each by itself with prefixCache: false', async () => {
    await using roomy = await models.model(1000, false);
    const prompt = tokens(400);
    for (let i = 0; i < 2; i++) await answer(roomy, { prompt, options });
    expect(roomy.status()).toMatchObject({ prefixes: { asked: 800, found: 0 }, pages: { kept: 0 } });
  });
});

describe('guessing ahead', () => {
  it.each([1, 4, 7])(
    '%i tokens changes no answer, greedy or drawn with a seed, drawn there or here',
    async (speculate) => {
      await using roomy = await models.model(1000);
      let accepted = 0;
      for (const length of [40, 990]) {
        for (const rules of [{ temperature: 0 }, { temperature: 1, seed: 3 }]) {
          for (const where of [{}, { logprobs: 0 }]) {
            const phrase = tokens(20);
            const prompt = [...tokens(length), ...phrase, ...phrase];
            const options = { maxTokens: 90, ignoreEos: true, ...rules, ...where };
            const [expected] = await models.alone([{ prompt, options }]);
            const generation = roomy.generate(prompt, { ...options, speculate });
            const told: unknown[] = [];
            for await (const { tokenId, logprob } of generation) told.push(tokenId, logprob);
            expect(JSON.stringify(told)).toBe(expected);
            const stats = generation.stats!;
            expect(stats.acceptedTokens).toBeLessThanOrEqual(stats.guessedTokens);
            accepted += stats.acceptedTokens;
          }
        }
      }
      expect(accepted).toBeGreaterThan(0);
    },
  );

  it.each([1, 3, 7])('computes a guess whole, also where prompts are cut into chunks of %i', async (prefillChunk) => {
    await using roomy = await models.model(1000);
    const phrase = tokens(5);
    for (const where of [{}, { logprobs: 0 }]) {
      const request = { prompt: [...phrase, ...phrase], options: { ...GREEDY, maxTokens: 60, prefillChunk, ...where } };
      const guessing = { ...request, options: { ...request.options, speculate: 7 } };
      expect(await answer(roomy, guessing)).toBe(await answer(roomy, request));
    }
  });

  it.each([{}, { logprobs: 0 }, { repeatPenalty: 1.01 }])(
    'of several answers takes steps together: %j',
    async (how) => {
      await using roomy = await models.model(1000);
      const phrase = tokens(20);
      const requests = Array.from({ length: 40 }, (_, i) => ({
        prompt: [...tokens(30 + i), ...phrase, ...phrase],
        options: { ...GREEDY, maxTokens: 60, ...how },
      }));
      const expected = await models.alone(requests);
      models.device.steps.length = 0;
      const answers = requests.map(({ prompt, options }) =>
        answer(roomy, { prompt, options: { ...options, speculate: 7 } }),
      );
      expect(await Promise.all(answers)).toEqual(expected);
      const { steps } = models.device;
      expect(steps.some((counts) => counts.filter((count) => count > 1 && count <= 8).length > 5)).toBe(true);
      const mostRows = Math.max(
        ...steps.map((counts) => counts.reduce((sum, count) => sum + (count <= 8 ? count : 1), 0)),
      );
      expect(mostRows).toBeGreaterThan(40);
      expect(mostRows).toBeLessThanOrEqual('repeatPenalty' in how || 'logprobs' in how ? 64 : 256);
    },
  );
});
