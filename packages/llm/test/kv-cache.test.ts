import { selectBackend } from '@int-flash/attention';
import { unpackInt4 } from '@int-flash/quant';
import { describe, expect, it } from 'vitest';
import { KvCache } from '../src/kv-cache.js';
import type { KvCacheDtype } from '../src/kv-cache-layer.js';
import { type AttentionChoice, attendCached } from '../src/layers/attention.js';
import { Random } from '../src/random.js';

const KV_HEADS = 2;
const HEADS = 4;
const HEAD_DIM = 16;
const KEY_OFFSET = HEADS * HEAD_DIM;
const VALUE_OFFSET = KEY_OFFSET + KV_HEADS * HEAD_DIM;
const STRIDE = VALUE_OFFSET + KV_HEADS * HEAD_DIM;

/** [tokens, query | key | value]; keys have a large offset a channel, as those of language models do. */
function rows(tokens: number, seed: number): Float32Array {
  const random = new Random(seed);
  return Float32Array.from({ length: tokens * STRIDE }, (_, i) => {
    const channel = i % STRIDE;
    const isKey = channel >= KEY_OFFSET && channel < VALUE_OFFSET;
    return 2 * random.next() - 1 + (isKey ? 10 * Math.sin(channel) : 0);
  });
}

function cacheOf(dtype: KvCacheDtype, maxTokens = 1000): KvCache {
  return new KvCache({ layers: 1, kvHeads: KV_HEADS, headDim: HEAD_DIM, maxTokens, dtype });
}

function append(cache: KvCache, data: Float32Array, first = 0, last = data.length / STRIDE): void {
  const part = data.subarray(first * STRIDE, last * STRIDE);
  cache.append(0, {
    data: part,
    tokens: last - first,
    keyOffset: KEY_OFFSET,
    valueOffset: VALUE_OFFSET,
    stride: STRIDE,
  });
}

/** Attention of the last `count` rows. */
function attend(cache: KvCache, data: Float32Array, count: number, choice: AttentionChoice): Float32Array {
  const tokens = data.length / STRIDE;
  const query = new Float32Array(count * KEY_OFFSET);
  for (let t = 0; t < count; t++) {
    const row = (tokens - count + t) * STRIDE;
    query.set(data.subarray(row, row + KEY_OFFSET), t * KEY_OFFSET);
  }
  const out = new Float32Array(query.length);
  attendCached(
    selectBackend('portable'),
    choice,
    { heads: HEADS, scale: 0.25, windowLeft: Infinity },
    query,
    count,
    cache.view(0),
    out,
  );
  return out;
}

/** Float64 softmax attention, the textbook formula. */
function truth(data: Float32Array, count: number): Float64Array {
  const tokens = data.length / STRIDE;
  const out = new Float64Array(count * KEY_OFFSET);
  for (let t = 0; t < count; t++) {
    const position = tokens - count + t;
    for (let head = 0; head < HEADS; head++) {
      const q = position * STRIDE + head * HEAD_DIM;
      const kv = Math.floor((head * KV_HEADS) / HEADS) * HEAD_DIM;
      const weights = Array.from({ length: position + 1 }, (_, j) => {
        let dot = 0;
        for (let d = 0; d < HEAD_DIM; d++) dot += data[q + d]! * data[j * STRIDE + KEY_OFFSET + kv + d]!;
        return Math.exp(0.25 * dot - 60);
      });
      const sum = weights.reduce((a, b) => a + b, 0);
      for (let d = 0; d < HEAD_DIM; d++) {
        out[t * KEY_OFFSET + head * HEAD_DIM + d] = weights.reduce(
          (a, w, j) => a + (w / sum) * data[j * STRIDE + VALUE_OFFSET + kv + d]!,
          0,
        );
      }
    }
  }
  return out;
}

function relativeL2(got: ArrayLike<number>, wanted: Float64Array): number {
  const squares = wanted.reduce((sum, x, i) => sum + (x - got[i]!) ** 2, 0);
  return Math.sqrt(squares / wanted.reduce((sum, x) => sum + x * x, 0));
}

describe('KvCache', () => {
  // fp32: scores of up to 60 in float32 are off by 4e-6, and the exponential's polynomial by 2.8e-6 of its value.
  // Codes: with the offset taken out, keys and values are uniform on [-1, 1]: a step of 1/127 of the maximum leaves about
  // 0.6% (INT8), 1/7 about 8% (INT4) noise a rounding; averaging shrinks outputs and noise of V alike, scores add theirs of
  // Q and K. Ten times less would mean nothing was quantized; with the offset of 10 left in, INT8 comes to over 3%.
  it.each([
    ['fp32', 'fp32', 0, 1e-5],
    ['int8', 'int8', 1e-3, 2e-2],
    ['int8', 'fp32', 5e-4, 2e-2],
    ['fp32', 'int8', 1e-3, 2e-2],
    ['int4', 'int8', 2e-2, 0.35],
    ['int4', 'fp32', 2e-2, 0.35],
  ] as const)('%s cache, %s attention: as close to float64 as its grid allows', (dtype, choice, floor, ceiling) => {
    const data = rows(150, 1);
    const cache = cacheOf(dtype);
    append(cache, data);
    const error = relativeL2(attend(cache, data, 20, choice), truth(data, 20));
    expect(error).toBeGreaterThanOrEqual(floor);
    expect(error).toBeLessThan(ceiling);
  });

  it('holds the same bits whether rows came at once or behind each other, and through growth', () => {
    for (const dtype of ['fp32', 'int8', 'int4'] as const) {
      const data = rows(300, 2);
      const [once, bits] = [cacheOf(dtype), cacheOf(dtype)];
      append(once, data);
      append(bits, data, 0, 64);
      for (let t = 64; t < 300; t += 59) append(bits, data, t, Math.min(t + 59, 300));
      expect(bits.capacity).not.toBe(once.capacity);
      const [a, b] = [attend(once, data, 5, 'int8'), attend(bits, data, 5, 'int8')];
      expect([...b], dtype).toEqual([...a]);
    }
  });

  it('rolls back to a length and goes on as if nothing had been', () => {
    for (const dtype of ['fp32', 'int8', 'int4'] as const) {
      const [data, other] = [rows(90, 3), rows(40, 4)];
      const [straight, detour] = [cacheOf(dtype), cacheOf(dtype)];
      append(straight, data);
      append(detour, data, 0, 70);
      append(detour, other);
      detour.truncate(70);
      expect(detour.length).toBe(70);
      append(detour, data, 70);
      expect([...attend(detour, data, 5, 'int8')], dtype).toEqual([...attend(straight, data, 5, 'int8')]);
      detour.truncate(0);
      append(detour, other);
      const fresh = cacheOf(dtype);
      append(fresh, other);
      expect([...attend(detour, other, 5, 'int8')], dtype).toEqual([...attend(fresh, other, 5, 'int8')]);
    }
  });

  it('keeps value scales within 2^-20 of the largest before them, rows of zeros included', () => {
    for (const dtype of ['int8', 'int4'] as const) {
      const data = rows(12, 5);
      for (const zero of [0, 1, 7]) data.fill(0, zero * STRIDE + VALUE_OFFSET, (zero + 1) * STRIDE);
      for (let i = 9 * STRIDE + VALUE_OFFSET; i < 10 * STRIDE; i++) data[i]! *= 1e-9;
      const cache = cacheOf(dtype);
      append(cache, data, 0, 1); // alone at first: nothing to compare with
      const lonely = cache.view(0);
      expect(lonely.type !== 'fp32' && lonely.valueScales[0]).toBe(1);
      append(cache, data, 1);
      const view = cache.view(0);
      if (view.type === 'fp32') throw new Error('unreachable');
      for (let head = 0; head < KV_HEADS; head++) {
        const scales = [...view.valueScales.subarray(head * view.capacity, head * view.capacity + 12)];
        const ratios = scales.map((scale) => scale / Math.max(...scales));
        expect(Math.min(...ratios)).toBeGreaterThanOrEqual(2 ** -21); // later rows may be larger than those before
        for (const zero of [0, 1, 7, 9]) expect(ratios[zero]).toBeLessThan(2 ** -19);
        const codes = view.type === 'int8' ? view.values : unpackInt4(view.values);
        const row = (t: number) => [
          ...codes.subarray((head * view.capacity + t) * HEAD_DIM, (head * view.capacity + t + 1) * HEAD_DIM),
        ];
        expect(row(7).every((code) => code === 0)).toBe(true);
        expect(row(9).every((code) => Math.abs(code) <= 1)).toBe(true);
      }
      expect(relativeL2(attend(cache, data, 1, 'int8'), truth(data, 1))).toBeLessThan(dtype === 'int8' ? 0.02 : 0.5);
    }
  });

  it('grows by doubling up to the maximum, counts its bytes, and refuses more', () => {
    const count = { bytes: 0 };
    const cache = new KvCache(
      { layers: 1, kvHeads: KV_HEADS, headDim: HEAD_DIM, maxTokens: 300, dtype: 'int8' },
      count,
    );
    const data = rows(300, 6);
    append(cache, data, 0, 10);
    expect(cache.capacity).toBe(128);
    expect(count.bytes).toBe(2 * KV_HEADS * 128 * (HEAD_DIM + 4));
    append(cache, data, 10, 200);
    expect(cache.capacity).toBe(256);
    append(cache, data, 200, 300);
    expect(cache.capacity).toBe(300);
    expect(() => append(cache, data, 0, 1)).toThrowError(expect.objectContaining({ code: 'ERR_SHAPE' }));
    cache.dispose();
    cache.dispose();
    expect(count.bytes).toBe(0);
    expect(() => cache.view(0)).toThrowError(expect.objectContaining({ code: 'ERR_DISPOSED' }));
  });
});
