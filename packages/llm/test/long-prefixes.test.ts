import { afterEach, describe, expect, it, vi } from 'vitest';
import { DeviceCache } from '../src/device-cache.js';
import { DeviceModels, GREEDY, LONG_SHAPE } from './device-models.js';
import { answer } from './requests.js';
import { tinyDraws } from './tiny-model.js';

const { tokens } = tinyDraws(13);
const models = new DeviceModels(LONG_SHAPE);

afterEach(() => {
  vi.restoreAllMocks();
});

describe('a beginning of 131,000 tokens that is kept', () => {
  it('is taken over by prompts that begin alike, and whoever comes after them is answered', async () => {
    const beginning = tokens(131_000);
    const requests = [[], [5, 6], [7]].map((rest) => ({
      prompt: [...beginning, ...rest],
      options: { ...GREEDY, maxTokens: 3, logprobs: 0 },
    }));
    requests.push({ prompt: [5, 6, 7], options: { ...GREEDY, maxTokens: 3, logprobs: 0 } });
    const expected = await models.alone(requests);
    await using model = await models.model(5000);
    const [first, ...others] = requests;
    expect(await answer(model, first!)).toBe(expected[0]);
    expect(await Promise.all(others.map((request) => answer(model, request)))).toEqual(expected.slice(1));
    expect(model.status()).toMatchObject({ prefixes: { found: 2 * Math.floor(131_000 / 64) * 64 }, sessions: 0 });
  });

  it('is noted as of use once a step and once for all of its pages, read or taken over', async () => {
    const prompt = tokens(131_000);
    const pages = Math.floor(prompt.length / 64);
    const request = { prompt, options: { ...GREEDY, maxTokens: 1 } };
    await using model = await models.model(5000);
    // What was of use is noted in a set: every page of the path once a step, not once for each page behind it.
    const noted = vi.spyOn(Set.prototype, 'add');
    await answer(model, request);
    expect(noted.mock.calls.length).toBeGreaterThan(pages);
    expect(noted.mock.calls.length).toBeLessThan(pages * (models.device.steps.length + 3));
    noted.mockClear();
    await answer(model, request);
    expect(noted.mock.calls.length).toBeGreaterThan(pages);
    expect(noted.mock.calls.length).toBeLessThan(3 * pages);
  });

  it('is not looked up again while those who want it wait for pages, and all of them get what they get alone', async () => {
    const beginning = tokens(131_000);
    const requests = [2000, 1500, 10, 1000].map((own) => ({
      prompt: [...beginning, ...tokens(own)],
      options: { ...GREEDY, maxTokens: 2, logprobs: 0 },
    }));
    const expected = await models.alone(requests);
    await using model = await models.model(2046 + 154);
    await answer(model, { prompt: beginning, options: { ...GREEDY, maxTokens: 1 } });
    const holder = model.generate(tokens(130 * 64), GREEDY);
    await holder.next();
    // Each of them finds 2,046 pages and needs a few more; the holder leaves 24 besides, until it has taken them all.
    const looked = vi.spyOn(DeviceCache.prototype, 'adopt');
    const ends: number[] = [];
    const answers = requests.map(async (request, i) => {
      const told = await answer(model, request);
      ends.push(i);
      return told;
    });
    for (let i = 0; i < 100; i++) await holder.next();
    expect(ends).toEqual([]);
    expect(looked.mock.calls.filter(([next]) => next.length > 1)).toHaveLength(1);
    await holder.return();
    expect(await Promise.all(answers)).toEqual(expected);
    expect(model.status()).toMatchObject({ preemptions: 0, sessions: 0, pages: { used: 0 } });
  });
});

describe('prompts that begin alike and come while there is room for one of them', () => {
  it('are answered as soon as the first has read what they have in common, not when its answer ends', async () => {
    await using model = await models.model(90);
    // Somebody who pauses keeps steps short.
    const paused = model.generate(tokens(20), GREEDY);
    await paused.next();
    const prompt = tokens(5000);
    const ends: string[] = [];
    const read = (name: string, maxTokens: number) =>
      answer(model, { prompt, options: { ...GREEDY, maxTokens } }).then(() => ends.push(name));
    const first = read('long answer', 200);
    while (models.device.steps.length < 3) await new Promise((resolve) => setImmediate(resolve));
    await Promise.all([first, read('short answer', 1)]);
    expect(ends).toEqual(['short answer', 'long answer']);
    expect(model.status()).toMatchObject({ preemptions: 0, prefixes: { found: 77 * 64 } }); // of 78, so that more than a few are left
    await paused.return();
  });
});
