import { selectBackend, status } from '@int-flash/attention';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { BatchPart } from '../src/device-step.js';
import { Pace } from '../src/pace.js';
import type { Random } from '../src/random.js';
import { drawRules, type SamplingRules, sample } from '../src/sampler.js';
import { Transformer } from '../src/transformer.js';
import { differences, expectSameBits, randomWeights, SMALL, tokenIds, VARIANTS } from './random-decoder.js';

// REQUIRE_CUDA=1 turns this skip into a failure (vitest.setup.ts).
const available = status().backends.some(({ name, available }) => name === 'cuda' && available);

describe.skipIf(!available)('steps over several sequences on CUDA', () => {
  const cuda = available ? selectBackend('cuda') : undefined!;

  /** A step over several sequences, none of which draws. */
  async function step(model: Transformer, parts: readonly BatchPart[]): Promise<Float32Array[]> {
    const outcomes = (await model.forwardBatch(parts, new Pace())) as Float32Array[];
    return outcomes.map((logits) => logits.slice());
  }

  describe.each(['tiles', 'runs'])('keys split in %s', (split) => {
    beforeAll(() => {
      process.env.INTFLASH_KEY_SPLIT = split;
    });
    afterAll(() => {
      delete process.env.INTFLASH_KEY_SPLIT;
    });

    // Steps of one token each (a graph from the third on), of a few, of prompts beside them; sequences that come and go.
    it.each(['head dim 64', 'head dim 128, eleven queries a key', 'sliding windows and norms of heads'])(
      'gives each what it gets alone: %s',
      async (name) => {
        const config = { ...SMALL, ...VARIANTS[name], maxPositions: 1300 };
        const weights = randomWeights(config, cuda, 'int8');
        const model = new Transformer(config, weights, cuda);
        const run = { attention: 'int8' } as const;
        const cacheOf = (i: number) => model.createCache('int8', i % 3 === 2 ? 'int4' : 'int8');
        // Per sequence, its tokens of each step; 0: it is not there.
        const steps = [
          [70, 1, 0, 1090, 9],
          [1, 1, 40, 1, 0],
          [1, 1, 1, 1, 1],
          [1, 1, 1, 1, 1],
          [1, 1, 1, 1, 1],
          [1, 1, 1, 1, 1],
          [8, 0, 3, 1, 30],
          [1, 1, 1, 1, 1],
        ];
        const ids = steps[0]!.map((_, i) => tokenIds(1800, config.vocabSize).slice(100 * i));
        const together = ids.map(() => [] as Float32Array[]);
        const caches = ids.map((_, i) => cacheOf(i));
        for (const counts of steps) {
          const parts = counts.flatMap((count, i) => {
            const from = caches[i]!.length;
            return count === 0 ? [] : [{ i, ids: ids[i]!.slice(from, from + count), cache: caches[i]!, ...run }];
          });
          const logits = await step(model, parts);
          for (const [at, { i }] of parts.entries()) together[i]!.push(logits[at]!);
        }
        for (const [i, text] of ids.entries()) {
          const cache = cacheOf(i);
          const alone: Float32Array[] = [];
          for (const counts of steps) {
            if (counts[i] === 0) continue;
            const from = cache.length;
            const part = { ids: text.slice(from, from + counts[i]!), cache, ...run };
            alone.push(...(await step(model, [part])));
          }
          expectSameBits(differences(together[i]!, alone), ` in sequence ${i}`);
          cache.dispose();
        }
        for (const cache of caches) cache.dispose();
        model.dispose();
        weights.dispose();
        expect(cuda.liveBytes()).toBe(0);
      },
    );

    it('leaves all as they were when one fails', async () => {
      const weights = randomWeights(SMALL, cuda, 'int8');
      weights.embedding[7 * SMALL.hiddenSize] = Number.NaN;
      const model = new Transformer({ ...SMALL, tiedEmbeddings: false }, weights, cuda);
      const run = { attention: 'int8' } as const;
      const caches = [0, 1].map(() => model.createCache('int8', 'int8'));
      const both = (a: number[], b: number[]) =>
        step(
          model,
          [a, b].map((ids, i) => ({ ids, cache: caches[i]!, ...run })),
        );
      await both([1, 2, 3], [4, 5]);
      await expect(both([6], [7])).rejects.toMatchObject({ code: 'ERR_NONFINITE' });
      expect(caches.map(({ length }) => length)).toEqual([3, 2]);
      const twice = [0, 0].map((i) => ({ ids: [1], cache: caches[i]!, ...run }));
      await expect(step(model, twice)).rejects.toMatchObject({ code: 'ERR_ARG_RANGE' });
      expect((await both([6], [8])).map((logits) => logits.every(Number.isFinite))).toEqual([true, true]);
      for (const cache of caches) cache.dispose();
      model.dispose();
      weights.dispose();
      expect(cuda.liveBytes()).toBe(0);
    });
  });

  // So many that a block takes several runs of keys, one after the other, where the GPU would have no room for a block each.
  it('gives each of many what it gets alone, from an INT4 cache with 128 channels', async () => {
    const config = {
      ...SMALL,
      headDim: 128,
      heads: 16,
      kvHeads: 16,
      position: { ...SMALL.position, rotaryDim: 128 } as never,
      slidingWindows: [null, 1500],
    };
    const weights = randomWeights(config, cuda, 'int8');
    const model = new Transformer(config, weights, cuda);
    const run = { attention: 'int8' } as const;
    const lengths = [2100, 900, 2050, 1024, 2048, 1500, 1025, 2200];
    const text = tokenIds(2400, config.vocabSize);
    const filled = async (length: number, i: number) => {
      const cache = model.createCache('int8', 'int4');
      await step(model, [{ ids: text.slice(i, i + length), cache, ...run }]);
      return cache;
    };
    const caches = [];
    for (const [i, length] of lengths.entries()) caches.push(await filled(length, i));
    const counts = [1, 1, 1, 1, 3, 8, 1];
    const together: Float32Array[][] = [];
    for (const [at, count] of counts.entries())
      together.push(
        await step(
          model,
          caches.map((cache) => ({ ids: text.slice(at, at + count), cache, ...run })),
        ),
      );
    for (const cache of caches) cache.dispose();
    for (const [i, length] of lengths.entries()) {
      const cache = await filled(length, i);
      const alone: Float32Array[] = [];
      for (const [at, count] of counts.entries())
        alone.push(...(await step(model, [{ ids: text.slice(at, at + count), cache, ...run }])));
      expectSameBits(
        differences(
          together.map((logits) => logits[i]!),
          alone,
        ),
        ` in sequence ${i}`,
      );
      cache.dispose();
    }
    model.dispose();
    weights.dispose();
    expect(cuda.liveBytes()).toBe(0);
  }, 60_000);

  // Cuts of every kind, of flat and of steep distributions; where more is left than the kernel sorts, the host draws.
  it('draws what the sampler draws from the same logits', async () => {
    const config = { ...SMALL, vocabSize: 6000 };
    const weights = randomWeights(config, cuda, 'int8');
    const model = new Transformer(config, weights, cuda);
    const caches = [0, 1].map(() => model.createCache('int8', 'int8'));
    const none = { logitBias: new Map(), repeatPenalty: 1, presencePenalty: 0, frequencyPenalty: 0 };
    const cuts = [
      { topK: 0, topP: 1, minP: 0 },
      { topK: 0, topP: 1, minP: 0.1 },
      { topK: 1, topP: 1, minP: 0 },
      { topK: 40, topP: 0.9, minP: 0 },
      { topK: 0, topP: 0.95, minP: 0.02 },
      { topK: 5000, topP: 1, minP: 0 },
    ];
    const ids = tokenIds(200, config.vocabSize);
    let drawn = 0;
    for (const temperature of [0, 0.3, 1, 1000]) {
      for (const cut of cuts) {
        // Not exactly 0: that could fall on an id whose weight float32, in which the device adds up, does not hold.
        for (const uniform of [1e-9, 0.37, 0.999999]) {
          const rules: SamplingRules = { ...none, ...cut, temperature };
          const random = { next: () => uniform } as Random;
          const next = [ids[drawn++ % ids.length]!];
          const vocabulary = config.vocabSize - 5;
          const part = { ids: next, attention: 'int8' } as const;
          const [logits] = await step(model, [{ ...part, cache: caches[0]! }]);
          const expected = sample(logits!.subarray(0, vocabulary), rules, { prompt: [], answer: [] }, random);
          const draw = [drawRules(rules, vocabulary, random)];
          const [token] = await model.forwardBatch([{ ...part, cache: caches[1]!, draw }], new Pace());
          expect(token, JSON.stringify(draw)).toEqual(Int32Array.of(expected));
        }
      }
    }
    for (const cache of caches) cache.dispose();
    model.dispose();
    weights.dispose();
    expect(cuda.liveBytes()).toBe(0);
  });

  it('gives logits and draws in one step, and refuses to draw from logits that are not finite', async () => {
    const weights = randomWeights(SMALL, cuda, 'int8');
    const model = new Transformer(SMALL, weights, cuda);
    const caches = [0, 1, 2].map((i) => model.createCache('int8', i === 2 ? 'int4' : 'int8'));
    const draw = { temperature: 0, topK: 0, topP: 1, minP: 0, uniform: 0, vocabulary: SMALL.vocabSize };
    const part = (i: number) => ({ ids: [3 + i, 4], cache: caches[i]!, attention: 'int8' }) as const;
    const parts = [{ ...part(0), draw: [draw] }, part(1), { ...part(2), draw: [draw, draw] }];
    const outcomes = await model.forwardBatch(parts, new Pace());
    expect(outcomes.map(({ length }) => length)).toEqual([1, SMALL.vocabSize, 2]);
    const bad = [{ ...draw, uniform: 1 }];
    await expect(model.forwardBatch([{ ...part(0), draw: bad }], new Pace())).rejects.toMatchObject({
      code: 'ERR_ARG_RANGE',
    });
    expect(caches.map(({ length }) => length)).toEqual([2, 2, 2]);
    for (const cache of caches) cache.dispose();
    model.dispose();
    weights.dispose();
    expect(cuda.liveBytes()).toBe(0);
  });
});
