import { selectBackend } from '@int-flash/attention';
import { describe, expect, it } from 'vitest';
import { channelScales } from '../src/channel-scales.js';
import { KvCache } from '../src/kv-cache.js';
import { KvCachePool } from '../src/kv-cache-pool.js';
import { attendCached } from '../src/layers/attention.js';
import { Random } from '../src/random.js';

const [HEADS, KV_HEADS, HEAD_DIM] = [4, 2, 64];
const KEY_OFFSET = HEADS * HEAD_DIM;
const VALUE_OFFSET = KEY_OFFSET + KV_HEADS * HEAD_DIM;
const STRIDE = VALUE_OFFSET + KV_HEADS * HEAD_DIM;
const TOKENS = 200;
/** Of each head, these are as large as said; queries are smaller there, as those of models are. */
const LARGE = [3, 20, 41];

/** [tokens, query | key | value] */
function rows(large: number): Float32Array {
  const random = new Random(9);
  return Float32Array.from({ length: TOKENS * STRIDE }, (_, i) => {
    const at = i % STRIDE;
    const isLarge = at < VALUE_OFFSET && LARGE.includes(at % HEAD_DIM);
    const size = !isLarge ? 1 : at < KEY_OFFSET ? 2 / large : large;
    return size * (2 * random.next() - 1);
  });
}

interface Caching {
  readonly dtype: 'fp32' | 'int8' | 'int4';
  readonly keyScales: 'token' | 'channel';
  readonly cuts?: readonly number[];
}

/** Attention of the last rows against a cache that all were appended to, cut where `cuts` say. */
function attend(data: Float32Array, { dtype, keyScales, cuts = [] }: Caching): Float32Array {
  const pool = new KvCachePool({ layers: 1, kvHeads: KV_HEADS, headDim: HEAD_DIM, dtype, pages: 8, keyScales });
  const cache = new KvCache(pool, { maxTokens: 512, isExact: true, space: 'test' });
  let from = 0;
  for (const to of [...cuts, TOKENS]) {
    const part = data.slice(from * STRIDE, to * STRIDE);
    const place = { keyOffset: KEY_OFFSET, valueOffset: VALUE_OFFSET, stride: STRIDE };
    cache.append(0, { data: part, tokens: to - from, ...place });
    from = to;
  }
  const count = 10;
  const query = new Float32Array(count * KEY_OFFSET);
  for (let t = 0; t < count; t++) {
    const row = (TOKENS - count + t) * STRIDE;
    query.set(data.subarray(row, row + KEY_OFFSET), t * KEY_OFFSET);
  }
  cache.scaleQueries(0, query, HEADS);
  const out = new Float32Array(query.length);
  const shape = { heads: HEADS, scale: 0.125, windowLeft: Infinity };
  const choice = dtype === 'fp32' ? 'fp32' : 'int8';
  attendCached(selectBackend('portable'), choice, shape, query, count, cache.view(0), out);
  cache.dispose();
  return out;
}

function relativeL2(got: Float32Array, wanted: Float32Array): number {
  const squares = wanted.reduce((sum, x, i) => sum + (x - got[i]!) ** 2, 0);
  return Math.sqrt(squares / wanted.reduce((sum, x) => sum + x * x, 0));
}

describe('scales of keys’ channels', () => {
  // With INT4 values have most of the noise, and rotating keys spreads large channels as it is.
  it.each([
    ['int8', 3],
    ['int4', 1.25],
  ] as const)('%s: keys with a few large channels cost attention less, by a factor of %d at least', (dtype, factor) => {
    const data = rows(20);
    const truth = attend(data, { dtype: 'fp32', keyScales: 'token' });
    const [token, channel] = (['token', 'channel'] as const).map((keyScales) =>
      relativeL2(attend(data, { dtype, keyScales }), truth),
    );
    expect(token! / channel!).toBeGreaterThan(factor);
    // … and then as little as those without large ones.
    const even = rows(1);
    const usual = relativeL2(
      attend(even, { dtype, keyScales: 'token' }),
      attend(even, { dtype: 'fp32', keyScales: 'token' }),
    );
    expect(channel! / usual).toBeLessThan(1.6);
  });

  it.each(['int8', 'int4'] as const)('%s: change no bit where no channel stands out', (dtype) => {
    const data = rows(1);
    expect(attend(data, { dtype, keyScales: 'channel' })).toEqual(attend(data, { dtype, keyScales: 'token' }));
  });

  it.each(['int8', 'int4'] as const)('%s: are frozen with the first 64 tokens, wherever the rest is cut', (dtype) => {
    const data = rows(20);
    const once = attend(data, { dtype, keyScales: 'channel' });
    expect(attend(data, { dtype, keyScales: 'channel', cuts: [64, 65, 130] })).toEqual(once);
    // Too few to judge by.
    expect(attend(data, { dtype, keyScales: 'channel', cuts: [7] })).toEqual(
      attend(data, { dtype, keyScales: 'token', cuts: [7] }),
    );
  });

  it('are powers of two that bring a channel to twice the middle one at most', () => {
    const sizes = [1, 1.9, 2, 3.9, 4, 7.9, 1000, 2 ** 60];
    const data = Float32Array.from([...sizes, ...sizes], (size, i) => (i < sizes.length ? size : -size));
    const all = { data, tokens: 2, keyOffset: 0, valueOffset: 0, stride: sizes.length };
    const place = { rows: all, kvHeads: 1, headDim: sizes.length };
    // The middle one is 4, the fifth: its exponent counts.
    expect([...channelScales(place, new Float32Array(sizes.length), 2)]).toEqual([1, 1, 1, 1, 1, 1, 2 ** 6, 2 ** 30]);
    const even = { ...place, rows: { ...all, data: data.map((x) => Math.min(Math.abs(x), 4)) } };
    expect(channelScales(even, new Float32Array(sizes.length), 2)).toHaveLength(0);
    expect(channelScales(place, new Float32Array(sizes), 1)).toHaveLength(0); // nothing is left of them
  });
});
