import { IntFlashError } from '@int-flash/ops';
import { describe, expect, it } from 'vitest';
import type { LanguageModel } from '../src/language-model.js';
import { DeviceModels } from './device-models.js';
import { answer, type Request } from './requests.js';
import { tinyDraws } from './tiny-model.js';

const models = new DeviceModels();
const REQUESTS = 24;
const noMemory = () => new IntFlashError('ERR_OOM', 'Expected memory for a step', { where: 'device' });
const pause = (milliseconds: number) => new Promise((resolve) => setTimeout(resolve, milliseconds));
type Ending = 'same' | 'left' | 'aborted' | 'out of memory' | 'disposed';

/** What one seed makes of requests, of a device, and of those who read the answers. */
function scene(seed: number) {
  const { integer, tokens } = tinyDraws(seed);
  const beginnings = [130, 64, 700, 1100].map(tokens);
  const request = (): Request => {
    const own = tokens(1 + (integer(3) === 0 ? integer(1400) : integer(300)));
    const prompt = (integer(2) === 0 ? own : [...beginnings[integer(4)]!, ...own]).slice(0, 1900);
    const drawn = { maxTokens: 1 + integer(80), ignoreEos: true, speculate: integer(8) };
    const rules = integer(3) === 0 ? { temperature: 1, seed: integer(1000) } : { temperature: 0 };
    const how = {
      ...(integer(2) === 0 && { logprobs: 1 }),
      ...(integer(5) === 0 && { kvCacheDtype: 'int4' as const }),
      ...(integer(8) === 0 && { prefillChunk: 512 }),
    };
    return { prompt, options: { ...drawn, ...rules, ...how } };
  };
  return {
    integer,
    requests: Array.from({ length: REQUESTS }, request),
    pages: 32 + integer(60),
    keepsPrefixes: integer(4) !== 0,
    stepTokens: integer(3) === 0 ? 600 + integer(1500) : Infinity,
    capacity: integer(4) === 0 ? (20 + integer(60)) * 1000 : Infinity,
    disposesAt: integer(4) === 0 ? integer(REQUESTS) : undefined,
    atOnce: 1 + integer(12),
    /** Of all requests so far. */
    controllers: [] as AbortController[],
  };
}

type Scene = ReturnType<typeof scene>;

/** Reads an answer: at once, slowly, not to the end, or until it is aborted. */
async function readSomehow(
  model: LanguageModel,
  { integer, controllers }: Scene,
  request: Request,
  expected: string,
): Promise<Ending> {
  const how = integer(4);
  const controller = new AbortController();
  controllers.push(controller);
  const options = { ...request.options, signal: controller.signal };
  if (how !== 0) {
    if (how === 1) setTimeout(() => controller.abort('enough'), integer(30));
    expect(await answer(model, { ...request, options })).toBe(expected);
    return 'same';
  }
  const told: unknown[] = [];
  const most = integer(3) === 0 ? integer(10) : Infinity;
  for await (const { tokenId, logprob } of model.generate(request.prompt, options)) {
    told.push(tokenId, logprob);
    if (integer(6) === 0) await pause(integer(4));
    if (told.length / 2 > most) return 'left';
  }
  expect(JSON.stringify(told)).toBe(expected);
  return 'same';
}

function endingOf(error: unknown): Ending {
  if (error === 'enough') return 'aborted';
  if (IntFlashError.isInstance(error) && error.code === 'ERR_OOM') return 'out of memory';
  if (IntFlashError.isInstance(error) && error.code === 'ERR_DISPOSED') return 'disposed';
  throw error;
}

describe('requests on a device that is short of pages, of memory, or of both', () => {
  it.each(Array.from({ length: 24 }, (_, seed) => seed))(
    'get what each gets alone, or a typed error, and leave nothing behind: seed %i',
    async (seed) => {
      const set = scene(seed);
      const { requests } = set;
      const { device } = models;
      const expected = await models.alone(requests);
      device.trims.length = 0;
      const model = await models.model(set.pages, set.keepsPrefixes);
      device.capacity = set.capacity;
      device.onStep = (ids) => {
        if (ids.reduce((sum, { length }) => sum + length, 0) > set.stepTokens) throw noMemory();
      };
      const ends: Ending[] = [];
      let next = 0;
      const work = async () => {
        while (next < REQUESTS) {
          const i = next++;
          if (i === set.disposesAt) {
            await pause(set.integer(10));
            if (seed % 2 === 0) for (const controller of set.controllers) controller.abort('enough');
            await model.dispose();
            expect(device.trims).toEqual([0]);
          }
          ends.push(await readSomehow(model, set, requests[i]!, expected[i]!).catch(endingOf));
        }
      };
      await Promise.all(Array.from({ length: set.atOnce }, work));
      expect(model.status()).toMatchObject({ sessions: 0, kvCacheBytes: 0, pages: { used: 0 } });
      if (set.disposesAt === undefined) expect(ends).not.toContain('disposed');
      // Steps of 512 tokens and an answer of each have room in any case.
      if (set.capacity === Infinity) expect(ends).not.toContain('out of memory');
      await model.dispose();
    },
  );
});
