import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type LanguageModel, loadRandomModel } from '../src/index.js';
import { lookUpContinuation } from '../src/prompt-lookup.js';
import { abortAtRandom, type Request, SPARE_TOKENS } from './requests.js';
import { TINY_SHAPE, tinyDraws } from './tiny-model.js';

const SHAPE = { ...TINY_SHAPE, num_hidden_layers: 2 };
const PAGE_BYTES = 2 * 2 * 2 * 64 * (8 + 4);
const PAGES = 64; // of 64 tokens: the longest request takes a third of them …
const AT_ONCE = 20; // … and so many come to twice as many on average

const { integer, tokens } = tinyDraws(11);
const beginnings = [tokens(130), tokens(64), tokens(200)];

function request(): Request {
  const kind = integer(20);
  const own = tokens(1 + (kind === 0 ? 1000 + integer(200) : kind < 5 ? integer(400) : integer(120)));
  const prompt = integer(2) === 0 ? own : [...beginnings[integer(3)]!, ...own];
  const drawn = { maxTokens: 1 + integer(30), ignoreEos: true, logprobs: 1, speculate: integer(3) * 3 };
  return {
    prompt,
    options: integer(3) === 0 ? { ...drawn, temperature: 1, seed: integer(1000) } : { ...drawn, temperature: 0 },
  };
}

interface Answer {
  readonly ids: readonly number[];
  /** Ids and log-probabilities: equal ones mean equal logits, to the bit. */
  readonly trace: string;
}

async function answer(model: LanguageModel, { prompt, options }: Request): Promise<Answer> {
  const ids: number[] = [];
  const told: unknown[] = [];
  for await (const { tokenId, logprob, topLogprobs } of model.generate(prompt, options)) {
    ids.push(tokenId);
    told.push([logprob, topLogprobs]);
  }
  return { ids, trace: JSON.stringify([ids, told]) };
}

/** The next turn of a conversation: all that was said, and something new. */
function followUp({ prompt, options }: Request, { ids }: Answer): Request {
  return { prompt: [...prompt, ...ids, ...tokens(1 + integer(80))], options };
}

let roomy: LanguageModel;
let tight: LanguageModel;

beforeAll(async () => {
  // Float weights: INT8 activations would round most differences away.
  roomy = await loadRandomModel(SHAPE, { linear: 'fp32', prefixCache: false });
  tight = await loadRandomModel(SHAPE, { linear: 'fp32', kvCacheBytes: PAGES * PAGE_BYTES });
});

afterAll(async () => {
  for (const model of [roomy, tight]) {
    expect(model.status()).toMatchObject({ sessions: 0, kvCacheBytes: 0, pages: { used: 0 } });
    await model.dispose();
  }
});

/** As each request would be answered with the model to itself, nothing kept from others and nothing guessed. */
async function alone({ prompt, options }: Request): Promise<string> {
  return (await answer(roomy, { prompt, options: { ...options, speculate: 0 } })).trace;
}

/** `work` on each item, so many at a time. */
async function settleSome<T, R>(items: readonly T[], atOnce: number, work: (item: T, i: number) => Promise<R>) {
  const ends: PromiseSettledResult<R>[] = [];
  let next = 0;
  const run = async () => {
    while (next < items.length) {
      const i = next++;
      [ends[i]] = await Promise.allSettled([work(items[i]!, i)]);
    }
  };
  await Promise.all(Array.from({ length: atOnce }, run));
  return ends;
}

describe('requests that share too few pages', () => {
  it('1,000 of random lengths, a third aborted at random: the others get what each gets alone, and no page is lost', {
    timeout: 300_000,
  }, async () => {
    const requests = Array.from({ length: 1000 }, request);
    const doomed = requests.map((_, i) => i % 3 === 0);
    const ends = await settleSome(requests, AT_ONCE, async (first, i) => {
      // A quarter goes on with a conversation.
      const said = i % 4 === 1 ? await answer(tight, first) : undefined;
      const wanted = said ? followUp(first, said) : first;
      requests[i] = wanted;
      if (!doomed[i]) return (await answer(tight, wanted)).trace;
      const longer = { ...wanted.options, maxTokens: wanted.options.maxTokens! + SPARE_TOKENS };
      const after = i % 2 === 0 ? integer(200) : undefined;
      return abortAtRandom(tight, { prompt: wanted.prompt, options: longer }, integer, after);
    });
    expect(tight.status()).toMatchObject({ sessions: 0, kvCacheBytes: 0, pages: { pages: PAGES, used: 0 } });
    expect(tight.status().preemptions).toBeGreaterThan(0);
    expect(tight.status().prefixes.found).toBeGreaterThan(10_000);
    let different = 0;
    for (const [i, end] of ends.entries()) {
      if (doomed[i]) expect(end, `request ${i}, to be aborted`).toMatchObject({ status: 'fulfilled' });
      else if (end.status !== 'fulfilled' || end.value !== (await alone(requests[i]!))) different++;
    }
    expect(different).toBe(0);
  });

  it('computes again what was put aside, beyond 1,024 tokens too, to the bit', { timeout: 60_000 }, async () => {
    const options = { maxTokens: 60, ignoreEos: true, logprobs: 1, temperature: 0 };
    const long = [1020, 1003, 1100, 880].map((length) => ({ prompt: tokens(length), options })); // these fill 16 + 16 + 18 + 14 pages, and no answer has room
    const before = tight.status().preemptions;
    const traces = await Promise.all(long.map(async (wanted) => (await answer(tight, wanted)).trace));
    expect(tight.status().preemptions).toBeGreaterThan(before);
    for (const [i, wanted] of long.entries()) expect(traces[i]).toBe(await alone(wanted));
  });

  it('takes the pages of an answer that nobody reads on, and computes them again when somebody does', async () => {
    const options = { maxTokens: 40, ignoreEos: true, temperature: 0 };
    const idle = { prompt: tokens(1500), options };
    const reading = tight.generate(idle.prompt, options);
    await using other = tight.generate(tokens(1500), options);
    await other.next();
    const before = tight.status().preemptions;
    const ids: number[] = [];
    for (let i = 0; i < 5; i++) ids.push((await reading.next()).value!.tokenId);
    await new Promise((resolve) => setTimeout(resolve, 60)); // longer than readers.ts expects either back
    await answer(tight, { prompt: tokens(1900), options });
    expect(tight.status().preemptions).toBe(before + 2);
    expect(tight.status().pages.used).toBe(0);
    for await (const { tokenId } of reading) ids.push(tokenId);
    expect(ids).toEqual((await answer(roomy, idle)).ids);
  });

  it('says what a prompt may be where memory is the limit, and refuses a limit that holds nothing', async () => {
    await using model = await loadRandomModel(SHAPE, { kvCacheBytes: 3 * PAGE_BYTES + 10 });
    expect(() => model.generate(tokens(192))).toThrowError(
      expect.objectContaining({ code: 'ERR_ARG_RANGE', message: 'Expected 1 to 191 tokens, got 192' }),
    );
    const full = model.generate(tokens(180), { maxTokens: 100, ignoreEos: true });
    for await (const _ of full);
    expect(full.stats).toMatchObject({ newTokens: 12, finishReason: 'length' });
    await expect(loadRandomModel(SHAPE, { kvCacheBytes: PAGE_BYTES - 1 })).rejects.toThrowError(
      expect.objectContaining({ code: 'ERR_ARG_RANGE', message: expect.stringContaining(`${PAGE_BYTES} bytes`) }),
    );
  });
});

describe('a limit that no memory holds', () => {
  it('is refused when pages are first wanted, with a code', async () => {
    for (const kvCacheBytes of [2 ** 45, Number.MAX_SAFE_INTEGER]) {
      await using model = await loadRandomModel(SHAPE, { kvCacheBytes });
      const outOfMemory = { code: 'ERR_OOM', where: 'host', bytes: kvCacheBytes - (kvCacheBytes % PAGE_BYTES) };
      await expect(model.generate([5, 6], { maxTokens: 1 }).text()).rejects.toMatchObject(outOfMemory);
      await expect(model.logits([5, 6])).rejects.toMatchObject(outOfMemory);
      expect(model.status()).toMatchObject({ sessions: 0, kvCacheBytes: 0, pages: { pages: 0, used: 0 } });
    }
  });
});

describe('prompts that begin alike', () => {
  const options = { maxTokens: 30, ignoreEos: true, logprobs: 1, temperature: 0 };

  it('of a conversation: each turn gets what it gets alone, and reads little anew', { timeout: 60_000 }, async () => {
    for (const [length, kvCacheDtype] of [
      [25, 'int8'], // a first turn of less than a page: its keys have an offset of their own
      [70, 'int8'],
      [70, 'int4'],
      [70, 'fp32'],
      [1000, 'int8'], // the answer crosses token 1,024
    ] as const) {
      await using model = await loadRandomModel(SHAPE, { linear: 'fp32' });
      const attention = kvCacheDtype === 'fp32' ? 'fp32' : 'int8';
      let turn: Request = { prompt: tokens(length), options: { ...options, maxTokens: 70, attention, kvCacheDtype } };
      for (let i = 0, before = 0; i < 4; i++) {
        const found = model.status().prefixes.found;
        const said = await answer(model, turn);
        expect(said.trace, `${kvCacheDtype}, turn ${i} of ${length}`).toBe(await alone(turn));
        // From the third turn on at the latest, all whole pages of the last turn's prompt are there; among many keys, all whole chunks.
        if (i >= 2) expect(model.status().prefixes.found - found).toBeGreaterThan(before - 128);
        before = turn.prompt.length;
        turn = followUp(turn, said);
      }
    }
  });

  it('and go on differently: the rest is cut as without the others', { timeout: 60_000 }, async () => {
    await using model = await loadRandomModel(SHAPE, { linear: 'fp32' });
    const beginning = tokens(3 * 64 + 10); // an odd number of pages, where a chunk has two
    for (const length of [300, 1090, 1030, 1090, 1400]) {
      const wanted = { prompt: [...beginning, ...tokens(length - beginning.length)], options };
      expect((await answer(model, wanted)).trace, `${length} tokens`).toBe(await alone(wanted));
    }
    expect(model.status().prefixes.found).toBe(4 * 128);
  });

  it('at the same moment: the beginning is computed once', async () => {
    await using model = await loadRandomModel(SHAPE, { linear: 'fp32' });
    const prompt = tokens(400);
    const answers = await Promise.all(Array.from({ length: 8 }, () => answer(model, { prompt, options })));
    expect(new Set(answers.map(({ trace }) => trace))).toEqual(new Set([await alone({ prompt, options })]));
    expect(model.status().prefixes).toEqual({ asked: 3200, found: 7 * 384 });
    // Shared at the end of the prompt; each answer's last page is its own.
    expect(model.status().pages.kept).toBe(6);
  });

  it('are computed each by itself with prefixCache: false', async () => {
    await using model = await loadRandomModel(SHAPE, { prefixCache: false });
    const prompt = tokens(400);
    for (let i = 0; i < 2; i++) await answer(model, { prompt, options });
    expect(model.status()).toMatchObject({ prefixes: { found: 0 }, pages: { kept: 0 } });
  });

  it('are not shared between arithmetics', async () => {
    await using model = await loadRandomModel(SHAPE, { linear: 'fp32' });
    const prompt = tokens(200);
    await answer(model, { prompt, options });
    const other = { prompt, options: { ...options, attention: 'fp32', kvCacheDtype: 'int8' } as const };
    expect((await answer(model, other)).trace).toBe(await alone(other));
    expect(model.status().prefixes.found).toBe(0);
  });
});

describe('guessing ahead', () => {
  // Behind half of this answer's first tokens a guessed one is at hand.
  const COUNTS = Array.from({ length: 30 }, (_, i) => i + 10);
  const told = async (model: LanguageModel, count: number, signal?: AbortSignal) => {
    const phrase = tinyDraws(33).tokens(30);
    const options = { maxTokens: 60, ignoreEos: true, temperature: 0, speculate: 7, signal };
    const generation = model.generate([...phrase, ...phrase], options);
    for (let i = 0; i < count; i++) await generation.next();
    return generation;
  };

  it('tells no token behind an abort', async () => {
    await using model = await loadRandomModel(SHAPE, { linear: 'fp32' });
    for (const count of COUNTS) {
      const abort = new AbortController();
      const generation = await told(model, count, abort.signal);
      const reason = new Error('enough');
      abort.abort(reason);
      await expect(generation.next(), `${count} tokens`).rejects.toBe(reason);
    }
  });

  it('tells no token once the model is disposed', async () => {
    for (const count of COUNTS) {
      const model = await loadRandomModel(SHAPE, { linear: 'fp32' });
      const generation = await told(model, count);
      await model.dispose();
      await expect(generation.next(), `${count} tokens`).rejects.toMatchObject({ code: 'ERR_DISPOSED' });
    }
  });

  it.each([1, 4, 7])('%i tokens changes no answer, greedy or drawn with a seed', async (speculate) => {
    await using model = await loadRandomModel(SHAPE, { linear: 'fp32' });
    const phrase = tokens(30);
    let accepted = 0;
    for (const [i, kvCacheDtype] of (['int8', 'int4', 'fp32', 'fp16'] as const).entries()) {
      const attention = kvCacheDtype === 'fp32' || kvCacheDtype === 'fp16' ? 'fp32' : 'int8';
      for (const temperature of [0, 1]) {
        // A model that knows nothing repeats itself now and then; the last of these crosses token 1,024.
        const prompt = i === 3 ? [...tokens(940), ...phrase, ...phrase] : [...phrase, ...phrase];
        const options = {
          maxTokens: 80,
          ignoreEos: true,
          logprobs: 1,
          temperature,
          seed: 3,
          kvCacheDtype,
          attention,
        } as const;
        const generation = model.generate(prompt, { ...options, speculate });
        const told: unknown[] = [];
        for await (const { tokenId, logprob } of generation) told.push(tokenId, logprob);
        const plain: unknown[] = [];
        for await (const { tokenId, logprob } of roomy.generate(prompt, options)) plain.push(tokenId, logprob);
        expect(told).toEqual(plain);
        const { guessedTokens, acceptedTokens } = generation.stats!;
        expect(acceptedTokens).toBeLessThanOrEqual(guessedTokens);
        accepted += acceptedTokens;
      }
    }
    expect(accepted).toBeGreaterThan(0);
  });

  it.each([1, 3, 7])('computes a guess whole, also where prompts are cut into chunks of %i', async (prefillChunk) => {
    const phrase = tokens(5);
    const options = { maxTokens: 60, ignoreEos: true, logprobs: 1, temperature: 0, prefillChunk } as const;
    const request = { prompt: [...phrase, ...phrase], options };
    const guessing = { ...request, options: { ...options, speculate: 7 } };
    expect(await answer(roomy, guessing)).toEqual(await answer(roomy, request));
  });

  it('guesses nothing where several tokens at once would get other bits', async () => {
    await using model = await loadRandomModel(SHAPE);
    const phrase = tokens(30);
    const odd = { attention: 'int8', kvCacheDtype: 'fp32', maxTokens: 20, ignoreEos: true, speculate: 7 } as const;
    const generation = model.generate([...phrase, ...phrase], odd);
    for await (const _ of generation);
    expect(generation.stats).toMatchObject({ guessedTokens: 0, acceptedTokens: 0 });
  });
});

describe('lookUpContinuation', () => {
  it('follows the last place that agrees longest with the end', () => {
    expect(lookUpContinuation([1, 2, 3, 4, 9, 2, 3, 5, 1, 2, 3], 2)).toEqual([4, 9]);
    expect(lookUpContinuation([1, 2, 3, 7, 2, 3], 8)).toEqual([7, 2, 3]);
    expect(lookUpContinuation([1, 2, 3, 4], 8)).toEqual([]);
    expect(lookUpContinuation([5, 5, 5], 1)).toEqual([5]);
    expect(lookUpContinuation([1, 2, 1, 2], 0)).toEqual([]);
  });
});
