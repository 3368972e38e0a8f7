import { afterEach, describe, expect, it, vi } from 'vitest';
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
});
