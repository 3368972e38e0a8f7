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

  it('refuses what is not finite as the steps do, and leaves the cache as it was', async () => {
    const refusals = await Promise.all(
      [true, false].map(async (hasLayers) => {
        const { backend } = counting(hasLayers);
        const weights = randomWeights(SMALL, cpu, 'int8');
        const transformer = new Transformer(SMALL, weights, backend);
        const cache = transformer.createCache('int8', 'int8');
        const run = { cache, attention: 'int8', pace: new Pace() } as const;
        await transformer.forward([1, 2, 3], run);
        weights.embedding[5 * SMALL.hiddenSize] = Number.NaN;
        const error = await transformer.forward([4, 5], run).catch((thrown) => thrown);
        expect(cache.length).toBe(3);
        const logits = await transformer.forward([4], run);
        cache.dispose();
        transformer.dispose();
        await expect(transformer.forward([4], run)).rejects.toMatchObject({ code: 'ERR_DISPOSED' });
        weights.dispose();
        return { code: error.code, message: error.message, logits };
      }),
    );
    expect(refusals[0]!.code).toBe('ERR_NONFINITE');
    expect(refusals[0]).toEqual(refusals[1]);
  });
});
