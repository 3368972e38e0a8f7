import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import type { LanguageModel } from '../src/language-model.js';
import { DeviceModels, GREEDY } from './device-models.js';
import { answer, type Request } from './requests.js';
import { tinyDraws } from './tiny-model.js';

const { tokens } = tinyDraws(19);
const models = new DeviceModels();
/** A prompt of 1,000 tokens and its answer take 17: there is room for one of them. */
const PAGES = 30;
const PATIENCE_MS = 50; // readers.ts

// Time passes when it is told to, so that nothing depends on how busy the machine is. Turns of the event loop are real.
beforeEach(() => {
  vi.useFakeTimers({ toFake: ['performance', 'setTimeout', 'clearTimeout'] });
});
afterEach(() => {
  expect(vi.getTimerCount()).toBe(0);
  vi.useRealTimers();
});

const pause = (milliseconds: number) => new Promise((resolve) => setTimeout(resolve, milliseconds));

/** What needs no more time is done meanwhile. */
async function settle(): Promise<void> {
  for (let i = 0; i < 100; i++) await new Promise((resolve) => setImmediate(resolve));
}

async function pass(milliseconds: number): Promise<void> {
  for (let i = 0; i < milliseconds; i++) {
    await settle();
    vi.advanceTimersByTime(1);
  }
  await settle();
}

/** Lets time pass until all of them are there. */
async function finish<T>(work: readonly Promise<T>[]): Promise<T[]> {
  let isDone = false;
  const all = Promise.all(work).finally(() => {
    isDone = true;
  });
  while (!isDone) await pass(1);
  return all;
}

/** As {@link answer}, at so many milliseconds a token. */
async function answerSlowly(model: LanguageModel, { prompt, options }: Request, milliseconds: number): Promise<string> {
  const told: unknown[] = [];
  for await (const { tokenId, logprob } of model.generate(prompt, options)) {
    told.push(tokenId, logprob ?? null);
    await pause(milliseconds);
  }
  return JSON.stringify(told);
}

const tokensComputed = () => models.device.steps.flat().reduce((sum, count) => sum + count, 0);

const requestsOf = (maxTokens: number, keepsPrefixes = true) =>
  [0, 1].map(() => ({ prompt: tokens(1000), options: { ...GREEDY, maxTokens, logprobs: 0 }, keepsPrefixes }));

describe('an answer that is read with pauses', () => {
  it.each([
    [1, true],
    [1, false],
    [45, true],
  ])('of %i ms keeps its pages while somebody waits for some', async (milliseconds, keepsPrefixes) => {
    const requests = requestsOf(20);
    const expected = await models.alone(requests);
    await using tight = await models.model(PAGES, keepsPrefixes);
    models.device.steps.length = 0;
    const work = requests.map((request) => answerSlowly(tight, request, milliseconds));
    expect(await finish(work)).toEqual(expected);
    expect(tight.status().preemptions).toBe(0);
    expect(tokensComputed()).toBe(2 * (1000 + 19));
  });

  it('of longer than it is waited for gets the same bits, one token at least each time', async () => {
    const requests = requestsOf(5);
    const expected = await models.alone(requests);
    await using tight = await models.model(PAGES);
    expect(await finish(requests.map((request) => answerSlowly(tight, request, 2 * PATIENCE_MS)))).toEqual(expected);
    expect(tight.status().preemptions).toBeGreaterThan(0);
    expect(tight.status().preemptions).toBeLessThanOrEqual(8); // no more than tokens that others follow
  });

  it('holds its pages no longer than that when nobody comes back', async () => {
    await using tight = await models.model(PAGES);
    const [idle, waiting] = requestsOf(3).map(({ prompt, options }) => tight.generate(prompt, options));
    await idle!.next();
    const next = waiting!.next();
    models.device.steps.length = 0;
    await pass(PATIENCE_MS - 1);
    expect(models.device.steps).toEqual([]);
    await pass(1);
    expect(tokensComputed()).toBe(1000);
    expect(tight.status().preemptions).toBe(1);
    await next;
    for (const generation of [idle!, waiting!]) await generation.return();
  });
});

describe('who waits for an answer that is read with pauses', () => {
  it('gets the pages at once when it is given up', async () => {
    await using tight = await models.model(PAGES);
    const [idle, waiting] = requestsOf(3).map(({ prompt, options }) => tight.generate(prompt, options));
    await idle!.next();
    const next = waiting!.next();
    await pass(1);
    await idle!.return();
    await next;
    expect(tight.status()).toMatchObject({ preemptions: 0, sessions: 1 });
    await waiting!.return();
  });

  it('ends at once when it is aborted', async () => {
    await using tight = await models.model(PAGES);
    const [idle, other] = requestsOf(3);
    const reading = tight.generate(idle!.prompt, idle!.options);
    const read = [(await reading.next()).value!];
    const controller = new AbortController();
    const { signal } = controller;
    const waiting = answer(tight, { prompt: other!.prompt, options: { ...other!.options, signal } });
    await pass(1);
    controller.abort('enough');
    await expect(waiting).rejects.toBe('enough');
    await settle();
    expect(vi.getTimerCount()).toBe(0);
    expect(tight.status()).toMatchObject({ preemptions: 0, sessions: 1 });
    read.push((await reading.next()).value!);
    await reading.return();
    const told = JSON.parse(await answer(tight, idle!)) as unknown[];
    expect(read.flatMap(({ tokenId, logprob }) => [tokenId, logprob ?? null])).toEqual(told.slice(0, 4));
  });

  it('keeps nobody waiting who wants pages of another pool', async () => {
    await using tight = await models.model(PAGES);
    const [idle, waiting] = requestsOf(3).map(({ prompt, options }) => tight.generate(prompt, options));
    await idle!.next();
    const next = waiting!.next();
    await pass(1);
    models.device.steps.length = 0;
    const other = { prompt: tokens(900), options: { ...GREEDY, maxTokens: 3, kvCacheDtype: 'int4' as const } };
    await answer(tight, other);
    expect(models.device.steps).toEqual([[512], [388], [1], [1]]);
    await idle!.return();
    await next;
    await waiting!.return();
  });
});
