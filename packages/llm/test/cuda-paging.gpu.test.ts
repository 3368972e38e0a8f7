import { selectBackend, status } from '@int-flash/attention';
import type { DecoderMemoryShape } from '@int-flash/ops';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type LanguageModel, loadRandomModel } from '../src/index.js';
import { KvCaches } from '../src/kv-caches.js';
import { Pace } from '../src/pace.js';
import { Random } from '../src/random.js';
import { Transformer } from '../src/transformer.js';
import { randomWeights, SMALL, tokenIds, VARIANTS } from './random-decoder.js';
import { abortAtRandom, answer, type Request, SPARE_TOKENS } from './requests.js';

// REQUIRE_CUDA=1 turns this skip into a failure (vitest.setup.ts).
const available = status().backends.some(({ name, available }) => name === 'cuda' && available);

const SHAPE = {
  model_type: 'llama',
  vocab_size: 300,
  hidden_size: 96,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  head_dim: 64,
  intermediate_size: 200,
  max_position_embeddings: 2048,
  rms_norm_eps: 1e-6,
};
const PAGES = 40;
const AT_ONCE = 20;
const GREEDY = { temperature: 0, ignoreEos: true } as const;

const random = new Random(23);
const integer = (below: number) => Math.floor(random.next() * below);
const tokens = (length: number) => Array.from({ length }, () => integer(300));

describe.skipIf(!available)('pages of a GPU', () => {
  const cuda = available ? selectBackend('cuda') : undefined!;
  const pageBytes = (config: DecoderMemoryShape) => cuda.decoderMemory!(config)!.pageBytes;

  it.each(Object.keys(VARIANTS))('take what is said of them: %s', async (name) => {
    const config = { ...SMALL, ...VARIANTS[name] };
    const weights = randomWeights(config, cuda, 'int8');
    for (const dtype of ['int8', 'int4'] as const) {
      const caches = new KvCaches(config, {}, cuda);
      const model = new Transformer(config, weights, cuda, caches);
      const cache = model.createCache('int8', dtype);
      const settings = { cache, attention: 'int8', pace: new Pace() } as const;
      expect(caches.bytes).toBe(0);
      await model.forward([1], settings);
      const first = caches.bytes;
      await model.forward(tokenIds(3 * 64, config.vocabSize), settings);
      expect(caches.bytes - first).toBe(3 * pageBytes(config)[dtype]);
      expect(caches.counts().used).toBe(4);
      cache.truncate(64);
      expect(caches.bytes).toBe(first);
      cache.putAside();
      expect([caches.bytes, caches.counts().used, cache.length]).toEqual([0, 0, 0]);
      cache.dispose();
      model.dispose();
    }
    weights.dispose();
    expect(cuda.liveBytes()).toBe(0);
  });

  describe.each(['int8', 'int4'] as const)('that sequences with a cache in %s share', (kvCacheDtype) => {
    const shape = { layers: 2, kvHeads: 2, headDim: 64, heads: 4, hiddenSize: 96, intermediateSize: 200 };
    let roomy: LanguageModel;
    let tight: LanguageModel;

    beforeAll(async () => {
      // Float weights: INT8 activations would round most differences away.
      const options = { backend: 'cuda', linear: 'fp32', kvCacheDtype } as const;
      roomy = await loadRandomModel(SHAPE, { ...options, prefixCache: false });
      tight = await loadRandomModel(SHAPE, { ...options, kvCacheBytes: PAGES * pageBytes(shape)[kvCacheDtype] });
    });

    afterAll(async () => {
      expect(roomy.status().pages.kept).toBe(0);
      for (const model of [roomy, tight]) {
        expect(model.status()).toMatchObject({ sessions: 0, kvCacheBytes: 0, pages: { used: 0 } });
        await model.dispose();
      }
      expect(cuda.liveBytes()).toBe(0);
    });

    it('are as many as was said, or as 64 sequences take', () => {
      expect([tight.contextLength, roomy.contextLength]).toEqual([2048, 2048]);
      expect(tight.status().pages.pages).toBe(PAGES);
      expect(roomy.status().pages.pages).toBe(64 * 32);
    });

    it('are refused to prompts that they do not hold, and a limit of less than one altogether', async () => {
      const bytes = pageBytes(shape)[kvCacheDtype];
      const load = (kvCacheBytes: number) => loadRandomModel(SHAPE, { backend: 'cuda', kvCacheDtype, kvCacheBytes });
      await using small = await load(3 * bytes + 10);
      expect(small.contextLength).toBe(192);
      expect(() => small.generate(tokens(192))).toThrowError(expect.objectContaining({ code: 'ERR_ARG_RANGE' }));
      const full = small.generate(tokens(180), { ...GREEDY, maxTokens: 100 });
      for await (const _ of full);
      expect(full.stats).toMatchObject({ newTokens: 12, finishReason: 'length' });
      await expect(load(bytes - 1)).rejects.toMatchObject({ code: 'ERR_ARG_RANGE' });
    });

    const isDoomed = (i: number) => i % 3 === 0;

    const count = kvCacheDtype === 'int8' ? 1000 : 200;
    it(`give each of ${count} requests what it gets alone, a third aborted at random, and none is lost`, {
      timeout: 300_000,
    }, async () => {
      const beginnings = [tokens(130), tokens(64), tokens(500)];
      const requests = Array.from({ length: count }, (_, i): Request => {
        const length = i % 15 === 0 ? 1000 + integer(400) : i % 5 === 0 ? integer(400) : integer(120);
        const speculate = 3 * integer(3);
        const maxTokens = (isDoomed(i) ? SPARE_TOKENS : 0) + 1 + integer(80);
        const drawn = { maxTokens, ignoreEos: true, speculate, ...(i % 2 === 0 && { logprobs: 0 }) };
        const rules = i % 3 === 1 ? { temperature: 1, seed: integer(1000) } : { temperature: 0 };
        const own = tokens(1 + length);
        const prompt = integer(2) === 0 ? own : [...beginnings[integer(3)]!, ...own];
        return { prompt, options: { ...drawn, ...rules } };
      });
      const before = tight.status().preemptions;
      let next = 0;
      const told: string[] = [];
      const aborted: number[] = []; // tokens that each had got
      const work = async () => {
        while (next < requests.length) {
          const i = next++;
          if (isDoomed(i)) {
            const after = i % 2 === 0 ? integer(2) * integer(100) : undefined; // of half of them at once: the prompt is waiting then, or being read
            aborted.push(await abortAtRandom(tight, requests[i]!, integer, after));
          } else told[i] = await answer(tight, requests[i]!);
        }
      };
      await Promise.all(Array.from({ length: AT_ONCE }, work));
      expect(tight.status()).toMatchObject({ sessions: 0, kvCacheBytes: 0, pages: { used: 0 } });
      expect(aborted).toHaveLength(requests.filter((_, i) => isDoomed(i)).length);
      expect(aborted.length).toBeGreaterThanOrEqual(count / 3);
      expect(aborted.filter((drawn) => drawn === 0).length).toBeGreaterThan(0);
      expect(aborted.filter((drawn) => drawn > 0).length).toBeGreaterThanOrEqual(Math.floor(count / 6));
      expect(tight.status().preemptions).toBeGreaterThan(before);
      expect(tight.status().prefixes.found).toBeGreaterThan(10 * count);
      const different: number[] = [];
      for (const [i, { prompt, options }] of requests.entries()) {
        const alone = { prompt, options: { ...options, speculate: 0 } };
        if (!isDoomed(i) && told[i] !== (await answer(roomy, alone))) different.push(i);
      }
      expect(different).toEqual([]);
      expect(roomy.status().preemptions).toBe(0);
    });

    // Beyond 1,024 keys, calls of up to eight tokens have other bits than larger ones; the first call has its own.
    it.each([5, 70, 900, 1020, 1500])('are computed again to the bit, for a prompt of %i tokens', async (length) => {
      const idle = { prompt: tokens(length), options: { ...GREEDY, maxTokens: 60, logprobs: 0 } };
      const before = tight.status().preemptions;
      const reading = tight.generate(idle.prompt, idle.options);
      const told: unknown[] = [];
      const take = async () => {
        const { tokenId, logprob } = (await reading.next()).value!;
        told.push(tokenId, logprob);
      };
      for (let i = 0; i < 30; i++) await take();
      for (let i = 0; i < 2; i++) {
        await answer(tight, { prompt: tokens(2040), options: { ...GREEDY, maxTokens: 8 } });
        // Where both find room, nothing is put aside: two that do not, then.
        await using second = tight.generate(tokens(1300), GREEDY);
        await second.next();
        await answer(tight, { prompt: tokens(2040), options: { ...GREEDY, maxTokens: 8 } });
        for (let token = 0; token < 10; token++) await take();
      }
      expect(tight.status().preemptions).toBeGreaterThan(before);
      for (let i = 0; i < 10; i++) await take();
      expect((await reading.next()).done).toBe(true);
      expect(JSON.stringify(told)).toBe(await answer(roomy, idle));
    });

    it('serve prompts that begin alike, turn after turn of a conversation', async () => {
      await using model = await loadRandomModel(SHAPE, { backend: 'cuda', linear: 'fp32', kvCacheDtype });
      for (const length of [25, 70, 1000]) {
        let prompt = tokens(length);
        for (let turn = 0, before = 0; turn < 4; turn++) {
          const { found } = model.status().prefixes;
          const options = { ...GREEDY, maxTokens: 50, logprobs: 0 };
          const said = await answer(model, { prompt, options });
          expect(said, `turn ${turn} of ${length}`).toBe(await answer(roomy, { prompt, options }));
          // From the third turn on at the latest, all whole pages of the last turn's prompt are there.
          if (turn >= 2) expect(model.status().prefixes.found - found).toBeGreaterThan(before - 64);
          before = prompt.length;
          const ids = (JSON.parse(said) as number[]).filter((_, at) => at % 2 === 0);
          prompt = [...prompt, ...ids, ...tokens(20)];
        }
      }
    });

    it('are computed once for prompts that begin alike at the same moment', async () => {
      await using model = await loadRandomModel(SHAPE, { backend: 'cuda', linear: 'fp32', kvCacheDtype });
      const request = { prompt: tokens(400), options: { ...GREEDY, maxTokens: 20, logprobs: 0 } };
      const idle = cuda.liveBytes();
      const answers = await Promise.all(Array.from({ length: 8 }, () => answer(model, request)));
      expect(new Set(answers)).toEqual(new Set([await answer(roomy, request)]));
      expect(model.status().prefixes).toEqual({ asked: 3200, found: 7 * 384 });
      expect(model.status()).toMatchObject({ kvCacheBytes: 0, pages: { used: 0, kept: 6 } });
      expect(cuda.liveBytes()).toBeGreaterThanOrEqual(idle + 6 * pageBytes(shape)[kvCacheDtype]);
    });

    it.each([1, 7])('hold what was guessed, %i tokens at a time, and change no answer', async (speculate) => {
      let accepted = 0;
      for (const length of [40, 990]) {
        for (const rules of [{ temperature: 0 }, { temperature: 0.5, seed: 3 }]) {
          for (const where of [{}, { logprobs: 0 }]) {
            const phrase = tokens(20);
            const prompt = [...tokens(length), ...phrase, ...phrase, ...phrase];
            const options = { maxTokens: 90, ignoreEos: true, ...rules, ...where };
            const generation = tight.generate(prompt, { ...options, speculate });
            const told: unknown[] = [];
            for await (const { tokenId, logprob } of generation) told.push(tokenId, logprob ?? null);
            expect(JSON.stringify(told)).toBe(await answer(roomy, { prompt, options }));
            accepted += generation.stats!.acceptedTokens;
          }
        }
      }
      expect(accepted).toBeGreaterThan(0);
    });

    it('are filled with sequences until one has to give way', async () => {
      const before = tight.status().preemptions;
      const held: AsyncIterator<unknown>[] = [];
      while (tight.status().preemptions === before && held.length < PAGES) {
        const generation = tight.generate(tokens(tight.contextLength / 4 - 2), { ...GREEDY, maxTokens: 2 });
        held.push(generation);
        await generation.next();
      }
      expect(held).toHaveLength(PAGES / 8 + 1);
      for (const generation of held) await generation.return?.();
    });
  });
});
