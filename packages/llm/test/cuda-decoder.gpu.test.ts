import { existsSync, readdirSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { selectBackend, status } from '@int-flash/attention';
import type { Backend, KeyScales } from '@int-flash/ops';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { openCheckpoint } from '../src/checkpoint.js';
import { DeviceCache } from '../src/device-cache.js';
import { KvCaches } from '../src/kv-caches.js';
import type { ModelConfig } from '../src/model-config.js';
import { loadWeights, type ModelWeights } from '../src/model-weights.js';
import { Pace } from '../src/pace.js';
import { Transformer } from '../src/transformer.js';
import { differences, expectSameBits, randomWeights, SMALL, tokenIds, VARIANTS } from './random-decoder.js';

// REQUIRE_CUDA=1 turns this skip into a failure (vitest.setup.ts).
const available = status().backends.some(({ name, available }) => name === 'cuda' && available);
const root = fileURLToPath(new URL('./goldens/', import.meta.url));
const checkpoints = readdirSync(root).filter((name) => existsSync(`${root}${name}/config.json`));

/** Logits after each of the pieces that `ids` is fed in. */
async function run(
  config: ModelConfig,
  weights: ModelWeights,
  backend: Backend,
  ids: number[],
  pieces: readonly number[],
  dtype: 'int8' | 'int4' = 'int8',
  keyScales: KeyScales = 'token',
): Promise<Float32Array[]> {
  const model = new Transformer(config, weights, backend, new KvCaches(config, { keyScales }, backend));
  const cache = model.createCache('int8', dtype);
  expect(cache instanceof DeviceCache).toBe(backend.name === 'cuda');
  const all: Float32Array[] = [];
  let from = 0;
  for (const length of pieces) {
    const part = ids.slice(from, from + length);
    all.push(
      Float32Array.from(await model.forward(part, { cache, attention: 'int8', pace: new Pace(), chunk: length })),
    );
    from += length;
  }
  expect(cache.length).toBe(from);
  expect(model.caches.bytes).toBeGreaterThan(0);
  cache.dispose();
  expect(model.caches.bytes).toBe(0);
  model.dispose();
  weights.dispose();
  return all;
}

describe.skipIf(!available)('a decoder on CUDA', () => {
  const cuda = available ? selectBackend('cuda') : undefined!;
  const cpu = available ? selectBackend('cpu') : undefined!;

  // A prompt, then single tokens, then a few together: both kernels of attention, pages and tiles that begin and end everywhere, and
  // enough single tokens in a row for their graph, which later ones use again.
  const PIECES = [70, 1, 1, 1, 1, 8, 1, 129, 1, 1, 1, 1, 40, 5, 1];

  interface Case {
    readonly config: ModelConfig;
    readonly choice: 'int8' | 'fp32' | 'int4';
    readonly dtype: 'int8' | 'int4';
    readonly pieces: readonly number[];
  }

  async function compare({ config, choice, dtype, pieces }: Case): Promise<number[]> {
    const ids = tokenIds(
      pieces.reduce((sum, length) => sum + length, 0),
      config.vocabSize,
    );
    const logits: Float32Array[][] = [];
    for (const backend of [cuda, cpu])
      logits.push(await run(config, randomWeights(config, backend, choice), backend, ids, pieces, dtype));
    return differences(logits[0]!, logits[1]!);
  }

  /** Where bits differ, the same model with its first layers only says from which layer on. */
  async function expectTheCpusBits(given: Case) {
    const found = await compare(given);
    let where = '';
    for (let layers = 1; layers < given.config.layers && found.some((difference) => difference !== 0); layers++) {
      const config = { ...given.config, layers, slidingWindows: given.config.slidingWindows.slice(0, layers) };
      where += `; with the first ${layers} alone: ${await compare({ ...given, config })}`;
    }
    expectSameBits(found, where);
    expect(cuda.liveBytes()).toBe(0);
  }

  describe.each(['int8', 'fp32'] as const)('%s linear layers', (choice) => {
    it.each(Object.keys(VARIANTS))('%s', async (name) => {
      await expectTheCpusBits({ config: { ...SMALL, ...VARIANTS[name] }, choice, dtype: 'int8', pieces: PIECES });
    });
  });

  // Layers that a library multiplies where there is one; chunks that have several rows a processor, few, and so few that codes come with the MLP's
  // first layer.
  it('an MLP of millions of weights', async () => {
    const config = { ...SMALL, layers: 1, slidingWindows: [null], hiddenSize: 128, intermediateSize: 12288 };
    await expectTheCpusBits({ config, choice: 'int8', dtype: 'int8', pieces: [300, 20, 1, 8, 3, 140] });
  });

  it.each(['head dim 64', 'head dim 128, eleven queries a key'])('INT4 linear layers, %s', async (name) => {
    const config = { ...SMALL, ...VARIANTS[name], intermediateSize: 192 };
    await expectTheCpusBits({ config, choice: 'int4', dtype: 'int8', pieces: PIECES });
  });

  it.each(Object.keys(VARIANTS))('%s, cache in INT4', async (name) => {
    await expectTheCpusBits({ config: { ...SMALL, ...VARIANTS[name] }, choice: 'int8', dtype: 'int4', pieces: PIECES });
  });

  // A first call of few tokens, which decides nothing; one of a page and more, which does; queries by one, by eight, by many.
  describe.each([[PIECES], [[5, ...PIECES]]])(
    'large channels of keys with scales of their own, in calls of %j',
    (pieces) => {
      it.each([
        ['int8', 'head dim 64'],
        ['int4', 'head dim 64'],
        ['int8', 'head dim 40, one group'],
        ['int8', 'head dim 128, eleven queries a key'],
        ['int8', 'sliding windows and norms of heads'],
      ] as const)('cache in %s: %s', async (dtype, name) => {
        const config = { ...SMALL, ...VARIANTS[name] };
        const ids = tokenIds(
          pieces.reduce((sum, length) => sum + length, 0),
          config.vocabSize,
        );
        const [ours, theirs, other] = await Promise.all(
          (
            [
              [cuda, 'channel'],
              [cpu, 'channel'],
              [cpu, 'token'],
            ] as const
          ).map(([backend, keyScales]) =>
            run(config, randomWeights(config, backend, 'fp32', 16), backend, ids, pieces, dtype, keyScales),
          ),
        );
        expectSameBits(differences(ours!, theirs!));
        // The comparison can fail: it is not the arithmetic of a scale a token.
        if (pieces[0]! > 8) expect(Math.max(...differences(theirs!, other!))).toBeGreaterThan(0);
      });
    },
  );

  describe.each(['tiles', 'runs'])('a context of several runs of 1,024 keys, split in %s', (split) => {
    beforeAll(() => {
      process.env.INTFLASH_KEY_SPLIT = split;
    });
    afterAll(() => {
      delete process.env.INTFLASH_KEY_SPLIT;
    });
    it.each(['int8', 'int4'] as const)('cache in %s', async (dtype) => {
      const config = { ...SMALL, layers: 1, slidingWindows: [null] };
      const pieces = [512, 511, 1, 1, 1, 1, 700, 3, 510, 1, 1];
      await expectTheCpusBits({ config, choice: 'int8', dtype, pieces });
    });
    it.each(['head dim 128, eleven queries a key', 'head dim 256, partly turned'])('%s', async (name) => {
      const config = { ...SMALL, ...VARIANTS[name] };
      await expectTheCpusBits({ config, choice: 'int8', dtype: 'int8', pieces: [1000, 8, 30, 1, 1, 1, 1] });
    });
  });

  // The scheduler cuts prompts by who else is there: what its calls' numbers of tokens are must not show, as long as none of them is few.
  describe.each([
    ['int8', 'int8'],
    ['int8', 'int4'],
    ['int4', 'int8'],
    ['fp32', 'int8'],
  ] as const)('a prompt in calls of any size, %s layers and a cache in %s', (choice, dtype) => {
    const CUTS = [[2400], [512, 512, 512, 512, 352], [64, 2336], [1029, 9, 1362], [2000, 400]];

    const LIBRARY = 'products of a library';
    const names = {
      int8: [...Object.keys(VARIANTS), LIBRARY],
      int4: ['head dim 64', 'head dim 128, eleven queries a key'],
      fp32: Object.keys(VARIANTS),
    };
    it.each(names[choice])('%s', { timeout: 120_000 }, async (name) => {
      const large = { layers: 1, slidingWindows: [null], hiddenSize: 128, intermediateSize: 12288 };
      const config = { ...SMALL, ...(name === LIBRARY ? large : VARIANTS[name]) };
      if (choice === 'int4') config.intermediateSize = 192; // whole groups
      const ids = tokenIds(2403, config.vocabSize);
      const ends: Float32Array[][] = [];
      for (const cut of CUTS) {
        const weights = randomWeights(config, cuda, choice);
        ends.push((await run(config, weights, cuda, ids, [...cut, 1, 2], dtype)).slice(-3));
      }
      for (const [i, end] of ends.entries()) expectSameBits(differences(end, ends[0]!), `, ${CUTS[i]}`);
      // The comparison can fail: the last eight by themselves are few, and their keys split into runs.
      const few = await run(config, randomWeights(config, cuda, choice), cuda, ids, [2392, 8, 1, 2], dtype);
      if (name === 'head dim 64' && choice === 'fp32')
        expect(Math.max(...differences(few.slice(-3), ends[0]!))).toBeGreaterThan(0);
    });
  });

  // Such rows get their scale's floor from the first other one, when that is appended: attention begins before the append ends, and must not
  // have read the old one.
  it.each(['int8', 'int4'] as const)('value rows of zeros before all others, cache in %s', async (dtype) => {
    const config = { ...SMALL, tiedEmbeddings: false };
    const zero = 7;
    const ids = [...new Array<number>(300).fill(zero), ...tokenIds(6, config.vocabSize)];
    const logits: Float32Array[][] = [];
    for (const backend of [cuda, cpu]) {
      const weights = randomWeights(config, backend, 'int8');
      weights.embedding.fill(0, zero * config.hiddenSize, (zero + 1) * config.hiddenSize);
      logits.push(await run(config, weights, backend, ids, [300, 1, 1, 1, 1, 1, 1], dtype));
    }
    expectSameBits(differences(logits[0]!, logits[1]!));
  });

  it.each(checkpoints)('the checkpoint %s', async (name) => {
    const logits: Float32Array[][] = [];
    for (const backend of [cuda, cpu]) {
      await using checkpoint = await openCheckpoint(root + name);
      const ids = tokenIds(40, checkpoint.config.vocabSize);
      logits.push(
        await run(checkpoint.config, await loadWeights(checkpoint, backend, 'int8'), backend, ids, [20, 1, 1, 9, 1]),
      );
    }
    expectSameBits(differences(logits[0]!, logits[1]!));
  });

  it('all logits of a chunk are those of its tokens one by one', async () => {
    const weights = randomWeights(SMALL, cuda, 'int8');
    const model = new Transformer(SMALL, weights, cuda);
    const ids = tokenIds(20, SMALL.vocabSize);
    const settings = { attention: 'int8', pace: new Pace() } as const;
    const cache = model.createCache('int8', 'int8');
    await model.forward(ids.slice(0, 8), { cache, ...settings });
    const all = new Float32Array(12 * SMALL.vocabSize);
    await model.forward(ids.slice(8), { cache, ...settings }, (logits, first) =>
      all.set(logits, first * SMALL.vocabSize),
    );
    cache.truncate(8);
    for (let i = 8; i < 20; i++) {
      const one = await model.forward([ids[i]!], { cache, ...settings });
      const row = all.subarray((i - 8) * SMALL.vocabSize, (i - 7) * SMALL.vocabSize);
      // A chunk's keys are walked as one run, single tokens' as runs of 1,024: the same under 1,024 keys.
      expect(one.reduce((most, x, id) => Math.max(most, Math.abs(x - row[id]!)), 0)).toBe(0);
    }
    cache.dispose();
    model.dispose();
    weights.dispose();
    expect(cuda.liveBytes()).toBe(0);
  });

  it('leaves a sequence as it was when a run fails, and works afterwards', async () => {
    const weights = randomWeights(SMALL, cuda, 'int8');
    weights.embedding[7 * SMALL.hiddenSize] = Number.NaN;
    const untied = { ...SMALL, tiedEmbeddings: false };
    const model = new Transformer(untied, weights, cuda);
    const settings = { attention: 'int8', pace: new Pace() } as const;
    const cache = model.createCache('int8', 'int8');
    const first = await model.forward([1, 2, 3], { cache, ...settings });
    await expect(model.forward([4, 7], { cache, ...settings })).rejects.toMatchObject({ code: 'ERR_NONFINITE' });
    await expect(model.forward([4, 300], { cache, ...settings })).rejects.toMatchObject({ code: 'ERR_ARG_RANGE' });
    await expect(model.forward(new Array<number>(2498).fill(1), { cache, ...settings })).rejects.toMatchObject({
      code: 'ERR_SHAPE',
    });
    expect(cache.length).toBe(3);
    cache.truncate(0);
    const again = await model.forward([1, 2, 3], { cache, ...settings });
    expect(again).toEqual(first);
    cache.dispose();
    model.dispose();
    weights.dispose();
    expect(cuda.liveBytes()).toBe(0);
  });

  it('runs sequences interleaved as if alone', async () => {
    const weights = randomWeights(SMALL, cuda, 'int8');
    const model = new Transformer(SMALL, weights, cuda);
    const settings = { attention: 'int8', pace: new Pace() } as const;
    const texts = [tokenIds(50, SMALL.vocabSize), tokenIds(90, SMALL.vocabSize).reverse()];
    const alone: Float32Array[] = [];
    for (const text of texts) {
      const cache = model.createCache('int8', 'int8');
      for (const id of text) await model.forward([id], { cache, ...settings });
      alone.push(await model.forward([5], { cache, ...settings }));
      cache.dispose();
    }
    const together = await Promise.all(
      texts.map(async (text) => {
        const cache = model.createCache('int8', 'int8');
        for (const id of text) await model.forward([id], { cache, ...settings });
        const logits = await model.forward([5], { cache, ...settings });
        cache.dispose();
        return logits;
      }),
    );
    expect(together).toEqual(alone);
    model.dispose();
    weights.dispose();
  });
});
