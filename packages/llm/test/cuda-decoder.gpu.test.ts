import { existsSync, readdirSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { selectBackend, status } from '@int-flash/attention';
import type { Backend, LinearWeights } from '@int-flash/ops';
import { seededNormal, seededUniform } from '@int-flash/reference';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { openCheckpoint } from '../src/checkpoint.js';
import { DeviceCache } from '../src/device-cache.js';
import { createLinear } from '../src/layers/linear.js';
import type { ModelConfig } from '../src/model-config.js';
import { loadWeights, type ModelWeights } from '../src/model-weights.js';
import { Pace } from '../src/pace.js';
import { Transformer } from '../src/transformer.js';

// REQUIRE_CUDA=1 turns this skip into a failure (vitest.setup.ts).
const available = status().backends.some(({ name, available }) => name === 'cuda' && available);
const root = fileURLToPath(new URL('./goldens/', import.meta.url));
const checkpoints = readdirSync(root).filter((name) => existsSync(`${root}${name}/config.json`));

const SMALL: ModelConfig = {
  architecture: 'llama',
  vocabSize: 300,
  hiddenSize: 96,
  layers: 2,
  heads: 4,
  kvHeads: 2,
  headDim: 64,
  intermediateSize: 200,
  maxPositions: 2500,
  norm: { type: 'rms', epsilon: 1e-5 },
  position: { type: 'rope', rotaryDim: 64, theta: 10000, scaling: { type: 'default' } },
  mlp: { type: 'gated', activation: 'silu', bias: false },
  qkvBias: false,
  attentionOutputBias: false,
  qkNorm: false,
  slidingWindows: [null, null],
  tiedEmbeddings: true,
  transposedWeights: false,
  bosTokenId: undefined,
  eosTokenIds: [],
  quantization: undefined,
};

/** Heads of every padded width, groups that fill, exceed and split a block's rows, windows, norms of heads. */
const VARIANTS: Record<string, Partial<ModelConfig>> = {
  'head dim 64': {},
  'head dim 40, one group': { headDim: 40, heads: 2, position: { ...SMALL.position, rotaryDim: 40 } as never },
  'head dim 128, eleven queries a key': {
    headDim: 128,
    heads: 11,
    kvHeads: 1,
    position: { ...SMALL.position, rotaryDim: 128 } as never,
  },
  'head dim 256, partly turned': { headDim: 256, heads: 2, position: { ...SMALL.position, rotaryDim: 100 } as never },
  'sliding windows and norms of heads': { slidingWindows: [200, 7], qkNorm: true },
  'learned positions, layer norms, GELU': {
    position: { type: 'learned' },
    norm: { type: 'layer', epsilon: 1e-5 },
    mlp: { type: 'plain', activation: 'gelu-tanh', bias: true },
  },
  'untied, plain silu': { tiedEmbeddings: false, mlp: { type: 'plain', activation: 'silu', bias: false } },
  'exact GELU': { mlp: { type: 'plain', activation: 'gelu', bias: false } },
};

/** The same random weights on any backend. */
function randomWeights(config: ModelConfig, backend: Backend, choice: 'int8' | 'fp32'): ModelWeights {
  const normal = seededNormal(seededUniform(5));
  const numbers = (count: number, size: number, around = 0) =>
    Float32Array.from({ length: count }, () => around + size * normal());
  const { hiddenSize, heads, kvHeads, headDim, intermediateSize, vocabSize, maxPositions, mlp } = config;
  const made: { dispose(): void }[] = [];
  const linear = (rows: number, cols: number, bias = false, kind = choice) => {
    const weights: LinearWeights = {
      type: 'fp32',
      rows,
      cols,
      weights: numbers(rows * cols, 1 / Math.sqrt(cols)),
      bias: bias ? numbers(rows, 0.1) : undefined,
    };
    const layer = createLinear(backend, [weights], kind);
    made.push(layer);
    return layer;
  };
  const norm = () => ({
    gain: numbers(hiddenSize, 0.1, 1),
    bias: config.norm.type === 'layer' ? numbers(hiddenSize, 0.1) : undefined,
  });
  const embedding = numbers(vocabSize * hiddenSize, 1);
  const layers = config.slidingWindows.map(() => ({
    attentionNorm: norm(),
    qkv: linear((heads + 2 * kvHeads) * headDim, hiddenSize, mlp.bias),
    queryNorm: config.qkNorm ? numbers(headDim, 0.1, 1) : undefined,
    keyNorm: config.qkNorm ? numbers(headDim, 0.1, 1) : undefined,
    attentionOutput: linear(hiddenSize, heads * headDim, mlp.bias),
    mlpNorm: norm(),
    mlpUp: linear(intermediateSize * (mlp.type === 'gated' ? 2 : 1), hiddenSize, mlp.bias),
    mlpDown: linear(hiddenSize, intermediateSize, mlp.bias),
  }));
  const tied = { type: 'fp32', rows: vocabSize, cols: hiddenSize, weights: embedding, bias: undefined } as const;
  const output = config.tiedEmbeddings
    ? createLinear(backend, [tied], 'fp32')
    : linear(vocabSize, hiddenSize, false, 'fp32');
  made.push(output);
  return {
    embedding,
    positions: config.position.type === 'learned' ? numbers(maxPositions * hiddenSize, 1) : undefined,
    layers,
    outputNorm: norm(),
    output,
    dispose: () => {
      for (const layer of made) layer.dispose();
    },
  };
}

/** Logits after each of the pieces that `ids` is fed in. */
async function run(
  config: ModelConfig,
  weights: ModelWeights,
  backend: Backend,
  ids: number[],
  pieces: readonly number[],
  dtype: 'int8' | 'int4' = 'int8',
): Promise<Float32Array[]> {
  const model = new Transformer(config, weights, backend);
  const count = { bytes: 0 };
  const cache = model.createCache('int8', dtype, count);
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
  expect(count.bytes).toBeGreaterThan(0);
  cache.dispose();
  expect(count.bytes).toBe(0);
  model.dispose();
  weights.dispose();
  return all;
}

function tokenIds(count: number, vocabSize: number): number[] {
  const uniform = seededUniform(9);
  return Array.from({ length: count }, () => Math.floor(uniform() * vocabSize));
}

/** Of each piece the largest difference of a logit: 0 where both computed docs/arithmetic.md, in which nothing is left open but a last place of exp. */
function differences(ours: Float32Array[], theirs: Float32Array[]): number[] {
  return ours.map((logits, piece) => {
    expect(logits.every(Number.isFinite), `piece ${piece} is finite`).toBe(true);
    return logits.reduce((most, x, i) => Math.max(most, Math.abs(x - theirs[piece]![i]!)), 0);
  });
}

function expectSameBits(found: number[], where = '') {
  const piece = found.findIndex((difference) => difference !== 0);
  expect(found, `piece ${piece} of the text differs first${where}`).toEqual(found.map(() => 0));
}

describe.skipIf(!available)('a decoder on CUDA', () => {
  const cuda = available ? selectBackend('cuda') : undefined!;
  const cpu = available ? selectBackend('cpu') : undefined!;

  // A prompt, then single tokens, then a few together: both kernels of attention, pages and tiles that begin and end everywhere, and
  // enough single tokens in a row for their graph, which later ones use again.
  const PIECES = [70, 1, 1, 1, 1, 8, 1, 129, 1, 1, 1, 1, 40, 5, 1];

  interface Case {
    readonly config: ModelConfig;
    readonly choice: 'int8' | 'fp32';
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

  it.each(Object.keys(VARIANTS))('%s, cache in INT4', async (name) => {
    await expectTheCpusBits({ config: { ...SMALL, ...VARIANTS[name] }, choice: 'int8', dtype: 'int4', pieces: PIECES });
  });

  it.each(['int8', 'int4'] as const)('a context of several runs of 1,024 keys, cache in %s', async (dtype) => {
    const config = { ...SMALL, layers: 1, slidingWindows: [null] };
    const pieces = [512, 511, 1, 1, 1, 700, 3, 510, 1, 1];
    await expectTheCpusBits({ config, choice: 'int8', dtype, pieces });
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
    const cache = model.createCache('int8', 'int8', { bytes: 0 });
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

  // Steps of one token each (a graph from the third on), of a few, of prompts beside them; sequences that come and go.
  describe.each(['tiles', 'runs'])('a step over several sequences, keys split in %s', (split) => {
    beforeAll(() => {
      process.env.INTFLASH_KEY_SPLIT = split;
    });
    afterAll(() => {
      delete process.env.INTFLASH_KEY_SPLIT;
    });

    it.each(['head dim 64', 'head dim 128, eleven queries a key', 'sliding windows and norms of heads'])(
      'gives each what it gets alone: %s',
      async (name) => {
        const config = { ...SMALL, ...VARIANTS[name], maxPositions: 1300 };
        const weights = randomWeights(config, cuda, 'int8');
        const model = new Transformer(config, weights, cuda);
        const run = { attention: 'int8', pace: new Pace() } as const;
        const cacheOf = (i: number) => model.createCache('int8', i % 3 === 2 ? 'int4' : 'int8', { bytes: 0 });
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
        for (const step of steps) {
          const parts = step.flatMap((count, i) => {
            const from = caches[i]!.length;
            return count === 0 ? [] : [{ i, ids: ids[i]!.slice(from, from + count), cache: caches[i]!, ...run }];
          });
          const logits = await model.forwardBatch(parts, run.pace);
          for (const [at, { i }] of parts.entries()) together[i]!.push(logits[at]!.slice());
        }
        for (const [i, text] of ids.entries()) {
          const cache = cacheOf(i);
          const alone: Float32Array[] = [];
          for (const step of steps) {
            if (step[i] === 0) continue;
            const from = cache.length;
            const logits = await model.forwardBatch(
              [{ ids: text.slice(from, from + step[i]!), cache, ...run }],
              run.pace,
            );
            alone.push(logits[0]!.slice());
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

    it.each(['int8', 'int4'] as const)('has the CPU’s bits beyond several runs, cache in %s', async (dtype) => {
      const config = { ...SMALL, layers: 1, slidingWindows: [null] };
      await expectTheCpusBits({ config, choice: 'int8', dtype, pieces: [512, 511, 1, 1, 1, 1, 700, 3, 510, 1, 1] });
    });

    it('leaves all as they were when one fails', async () => {
      const weights = randomWeights(SMALL, cuda, 'int8');
      weights.embedding[7 * SMALL.hiddenSize] = Number.NaN;
      const model = new Transformer({ ...SMALL, tiedEmbeddings: false }, weights, cuda);
      const run = { attention: 'int8', pace: new Pace() } as const;
      const caches = [0, 1].map(() => model.createCache('int8', 'int8', { bytes: 0 }));
      const step = (a: number[], b: number[]) =>
        model.forwardBatch(
          [a, b].map((ids, i) => ({ ids, cache: caches[i]!, ...run })),
          run.pace,
        );
      await step([1, 2, 3], [4, 5]);
      await expect(step([6], [7])).rejects.toMatchObject({ code: 'ERR_NONFINITE' });
      expect(caches.map(({ length }) => length)).toEqual([3, 2]);
      const twice = [0, 0].map((i) => ({ ids: [1], cache: caches[i]!, ...run }));
      await expect(model.forwardBatch(twice, run.pace)).rejects.toMatchObject({ code: 'ERR_ARG_RANGE' });
      expect((await step([6], [8])).map((logits) => logits.every(Number.isFinite))).toEqual([true, true]);
      for (const cache of caches) cache.dispose();
      model.dispose();
      weights.dispose();
      expect(cuda.liveBytes()).toBe(0);
    });
  });

  it('leaves a sequence as it was when a run fails, and works afterwards', async () => {
    const weights = randomWeights(SMALL, cuda, 'int8');
    weights.embedding[7 * SMALL.hiddenSize] = Number.NaN;
    const untied = { ...SMALL, tiedEmbeddings: false };
    const model = new Transformer(untied, weights, cuda);
    const settings = { attention: 'int8', pace: new Pace() } as const;
    const cache = model.createCache('int8', 'int8', { bytes: 0 });
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
      const cache = model.createCache('int8', 'int8', { bytes: 0 });
      for (const id of text) await model.forward([id], { cache, ...settings });
      alone.push(await model.forward([5], { cache, ...settings }));
      cache.dispose();
    }
    const together = await Promise.all(
      texts.map(async (text) => {
        const cache = model.createCache('int8', 'int8', { bytes: 0 });
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
