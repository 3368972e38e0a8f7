import { afterEach, expect, it, vi } from 'vitest';
import { DeviceModels, GREEDY } from './device-models.js';
import { answer } from './requests.js';
import { tinyDraws } from './tiny-model.js';

const { tokens } = tinyDraws(17);
const models = new DeviceModels();
/** Of INT8; as many bytes are 50 of INT4. */
const PAGES = 30;

afterEach(() => {
  vi.useRealTimers();
});

it('a pool that is full keeps nobody out of another', async () => {
  await using tight = await models.model(PAGES);
  const ends: string[] = [];
  const run = (name: string, length: number, maxTokens: number, kvCacheDtype: 'int8' | 'int4' = 'int8') =>
    answer(tight, { prompt: tokens(length), options: { ...GREEDY, maxTokens, kvCacheDtype } }).then(() =>
      ends.push(name),
    );
  await Promise.all([run('first', 1500, 100), run('waits', 900, 1), run('other pool', 900, 5, 'int4')]);
  expect(ends).toEqual(['other pool', 'first', 'waits']);
  expect(tight.status().preemptions).toBe(0);
});

it('two pools that are short at once serve those who wait for each in the order in which they came', async () => {
  const dtypes = ['int8', 'int4'] as const;
  const lengths = { int8: [1500, 900, 1000], int4: [1900, 1700, 1800] };
  const requests = dtypes.flatMap((kvCacheDtype) =>
    lengths[kvCacheDtype].map((length, i) => ({
      prompt: tokens(length),
      options: { ...GREEDY, maxTokens: 40 - 10 * i, logprobs: 0, kvCacheDtype },
    })),
  );
  const expected = await models.alone(requests);
  await using tight = await models.model(PAGES);
  const ends: number[] = [];
  const answers = requests.map(async (request, i) => {
    const told = await answer(tight, request);
    ends.push(i);
    return told;
  });
  expect(await Promise.all(answers)).toEqual(expected);
  expect(ends.filter((i) => i < 3)).toEqual([0, 1, 2]);
  expect(ends.filter((i) => i >= 3)).toEqual([3, 4, 5]);
  expect(tight.status()).toMatchObject({ preemptions: 0, pages: { used: 0 } });
});

it('who waits for pages that nobody reads on gets them, although another pool computes, and takes none of its', async () => {
  await using tight = await models.model(PAGES);
  const idle = [
    tight.generate(tokens(1500), GREEDY),
    tight.generate(tokens(900), { ...GREEDY, kvCacheDtype: 'int4' as const }),
  ];
  vi.useFakeTimers({ toFake: ['performance', 'setTimeout', 'clearTimeout'] });
  for (const reading of idle) await reading.next();
  vi.advanceTimersByTime(60); // longer than readers.ts expects either back
  const busy = tight.generate(tokens(20), { ...GREEDY, kvCacheDtype: 'int4' });
  let isDone = false;
  const waiting = answer(tight, { prompt: tokens(900), options: { ...GREEDY, maxTokens: 1 } }).then(() => {
    isDone = true;
  });
  // An answer goes on until the context ends, unless the other one was let in.
  for await (const _ of busy) if (isDone) break;
  expect(busy.stats).toBeUndefined();
  await waiting;
  expect(tight.status()).toMatchObject({ preemptions: 1, sessions: 2 });
  for (const reading of idle) await reading.return();
});
