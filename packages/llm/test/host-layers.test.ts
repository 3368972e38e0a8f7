import { selectBackend, status } from '@int-flash/attention';
import type { Backend } from '@int-flash/ops';
import { describe, expect, it } from 'vitest';
import type { KvCacheDtype } from '../src/kv-cache-layer.js';
import { KvCaches } from '../src/kv-caches.js';
import type { ModelConfig } from '../src/model-config.js';
import { Pace } from '../src/pace.js';
import { Transformer } from '../src/transformer.js';
import { randomWeights, SMALL, tokenIds, VARIANTS } from './random-decoder.js';

const hasAddon = status().backends.some(({ name, available }) => name === 'cpu' && available);
/** A prompt, then steps of one token and of a few, as guessing ahead has them. */
const CALLS = [20, 1, 1, 5, 1, 16, 1];

describe.skipIf(!hasAddon)('layers that the native backend computes in one call each', () => {
  const cpu = selectBackend('cpu');

  /** The native backend, counting such calls or without them. */
  function counting(hasLayers = true) {
    const counted = { steps: 0, live: 0 };
    const backend = Object.create(cpu, {
      createHostLayer: {
        value: (...args: Parameters<NonNullable<Backend['createHostLayer']>>) => {
          const layer = hasLayers ? cpu.createHostLayer!(...args) : undefined;
          if (!layer) return undefined;
          counted.live++;
          return {
            stepSync: (step: Parameters<typeof layer.stepSync>[0]) => {
              counted.steps++;
              return layer.stepSync(step);
            },
            dispose: () => {
              counted.live--;
              layer.dispose();
            },
          };
        },
      },
    });
    for (const name of [
      'status',
      'cacheAttentionSync',
      'appendCacheSync',
      'rotateHeadsSync',
      'turnRowsSync',
      'createLinear',
      'attentionSync',
    ] as const)
      Object.defineProperty(backend, name, { value: (cpu[name] as (...args: unknown[]) => unknown).bind(cpu) });
    return { backend: backend as Backend, counted };
  }

  interface Run {
    readonly config?: ModelConfig;
    readonly choice?: 'int8' | 'fp32' | 'int4';
    readonly dtype?: KvCacheDtype;
    readonly keyScales?: 'token' | 'channel';
    readonly keySize?: number;
  }

  /** All logits of {@link CALLS}, some taken back in between and computed again. */
  async function logitsOf(
    hasLayers: boolean,
    { config = SMALL, choice = 'int8', dtype = 'int8', keyScales = 'token', keySize }: Run,
  ) {
    const { backend, counted } = counting(hasLayers);
    const before = cpu.liveBytes();
    const weights = randomWeights(config, cpu, choice, keySize);
    const transformer = new Transformer(config, weights, backend, new KvCaches(config, { keyScales }, backend));
    const cache = transformer.createCache('int8', dtype);
    const run = { cache, attention: 'int8', pace: new Pace() } as const;
    const ids = tokenIds(100, config.vocabSize);
    const found: Float32Array[] = [];
    for (const count of CALLS) {
      const part = ids.splice(0, count);
      await transformer.forward(part, run, (logits) => found.push(logits.slice()));
      if (count === 5) cache.truncate(cache.length - 3);
    }
    cache.dispose();
    transformer.dispose();
    weights.dispose();
    expect([counted.live, cpu.liveBytes()]).toEqual([0, before]);
    return { logits: found, steps: counted.steps };
  }

  /** Steps of few tokens, with a cache that is not empty, in each layer. */
  const expected = (config: ModelConfig) => CALLS.filter((count) => count <= 16).length * config.layers;

  it.each([
    ['INT8', {}],
    ['an INT4 cache', { dtype: 'int4' }],
    ['INT4 weights', { choice: 'int4', config: { ...SMALL, hiddenSize: 128, intermediateSize: 224 } }],
    ['weights in float32', { choice: 'fp32' }],
    ['sliding windows', { config: { ...SMALL, slidingWindows: [30, 7] } }],
    ['one group of odd size', { config: { ...SMALL, ...VARIANTS['head dim 128, eleven queries a key'] } }],
    [
      'heads that turn in part, an INT4 cache',
      { config: { ...SMALL, ...VARIANTS['head dim 256, partly turned'] }, dtype: 'int4' },
    ],
  ] satisfies [string, Run][])('%s: the bits of one step after the other', async (_, run: Run) => {
    const [one, other] = [await logitsOf(true, run), await logitsOf(false, run)];
    expect(one.steps).toBe(expected(run.config ?? SMALL));
    expect(other.steps).toBe(0);
    expect(one.logits).toEqual(other.logits);
  });

  it.each([
    ['norms of heads', { config: { ...SMALL, qkNorm: true } }],
    ['layer norms, GELU', { config: { ...SMALL, ...VARIANTS['learned positions, layer norms, GELU'] } }],
    ['scales of channels', { keyScales: 'channel', keySize: 30 }],
    ['a cache in float32', { dtype: 'fp32' }],
  ] satisfies [string, Run][])('%s: one step after the other', async (_, run: Run) => {
    const { steps, logits } = await logitsOf(true, run);
    expect(steps).toBe(0);
    expect(logits).toEqual((await logitsOf(false, run)).logits);
  });

  /** Where channel 0 is not zero, which token 7 alone has, the first layer's rows are `huge` there. */
  function weightsThatFail(hugeOf: (row: number) => number) {
    const weights = randomWeights(SMALL, cpu, 'fp32');
    const { hiddenSize, vocabSize, heads, kvHeads, headDim } = SMALL;
    for (let id = 0; id < vocabSize; id++) weights.embedding[id * hiddenSize] = id === 7 ? 50 : 0;
    const rows = (heads + 2 * kvHeads) * headDim;
    const floats = Float32Array.from({ length: rows * hiddenSize }, (_, i) =>
      i % hiddenSize === 0 ? hugeOf(i / hiddenSize) : Math.sin(i) / 10,
    );
    weights.layers[0]!.qkv.dispose();
    const qkv = cpu.createLinear({ type: 'fp32', rows, cols: hiddenSize, weights: floats });
    const layers = weights.layers.map((layer, i) => (i === 0 ? { ...layer, qkv } : layer));
    const dispose = () => {
      weights.dispose();
      qkv.dispose();
    };
    return { ...weights, layers, dispose };
  }

  const FIRST_KEY = SMALL.heads * SMALL.headDim;
  const FIRST_VALUE = FIRST_KEY + SMALL.kvHeads * SMALL.headDim;

  it.each([
    ['scores that are too large, once keys and values have been written', 'ERR_OVERFLOW', () => 1e25],
    // Values before them have been written, and decide the scales of others.
    [
      'keys that are not finite',
      'ERR_NONFINITE',
      (row: number) => (row < FIRST_KEY ? 0 : row < FIRST_VALUE ? 3e38 : 1e9),
    ],
  ])('%s: refuses them as the steps do, and leaves the cache as it was', async (_, code, hugeOf) => {
    const told = [];
    for (const hasLayers of [true, false]) {
      for (const fails of [true, false]) {
        const { backend, counted } = counting(hasLayers);
        const weights = weightsThatFail(hugeOf);
        const transformer = new Transformer(SMALL, weights, backend);
        const cache = transformer.createCache('int8', 'int8');
        const run = { cache, attention: 'int8', pace: new Pace() } as const;
        await transformer.forward(tokenIds(64, 7), run);
        const error = fails ? await transformer.forward([7], run).catch((thrown) => thrown) : { code, message: '' };
        expect(error.code).toBe(code);
        expect(cache.length).toBe(64);
        const logits = await transformer.forward([4], run);
        expect(counted.steps > 0).toBe(hasLayers);
        cache.dispose();
        transformer.dispose();
        await expect(transformer.forward([4], run)).rejects.toMatchObject({ code: 'ERR_DISPOSED' });
        weights.dispose();
        told.push({ message: error.message, logits });
      }
    }
    expect(told[0]!.message).toBe(told[2]!.message);
    for (const { logits } of told) expect(logits).toEqual(told[3]!.logits);
  });

  it('are not made for what they would hold the event loop with, or where there are no codes', async () => {
    for (const [config, attention, dtype] of [
      [{ ...SMALL, intermediateSize: 60_000 }, 'int8', 'int8'],
      [SMALL, 'fp32', 'fp32'],
      [SMALL, 'int8', 'fp16'],
      [SMALL, 'fp32', 'int8'],
    ] as const) {
      const { backend, counted } = counting();
      const weights = randomWeights(config, cpu, 'int8');
      const transformer = new Transformer(config, weights, backend);
      const cache = transformer.createCache(attention, dtype);
      await transformer.forward([1], { cache, attention, pace: new Pace() });
      await transformer.forward([2], { cache, attention, pace: new Pace() });
      expect([counted.live, counted.steps]).toEqual([0, 0]);
      cache.dispose();
      transformer.dispose();
      weights.dispose();
    }
  });
});
