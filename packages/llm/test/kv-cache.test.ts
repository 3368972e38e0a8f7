import { selectBackend, status } from '@int-flash/attention';
import { flatCache } from '@int-flash/ops';
import { hadamardRotate, unpackInt4 } from '@int-flash/quant';
import { describe, expect, it } from 'vitest';
import { CodeCacheLayer } from '../src/code-cache-layer.js';
import { KvCache } from '../src/kv-cache.js';
import type { KvCacheDtype } from '../src/kv-cache-layer.js';
import { KvCachePool } from '../src/kv-cache-pool.js';
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

function poolOf(dtype: KvCacheDtype, pages: number): KvCachePool {
  return new KvCachePool({ layers: 1, kvHeads: KV_HEADS, headDim: HEAD_DIM, dtype, pages });
}

function cacheOf(dtype: KvCacheDtype, pool = poolOf(dtype, 16)): KvCache {
  return new KvCache(pool, { maxTokens: 1000, isExact: true, space: 'test' });
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
    ['fp16', 'fp32', 1e-6, 2e-3], // keys of up to 11 have steps of 2^-7, but softmax sees only the rest of them
    ['fp16', 'int8', 1e-3, 2e-2],
  ] as const)('%s cache, %s attention: as close to float64 as its grid allows', (dtype, choice, floor, ceiling) => {
    const data = rows(150, 1);
    const cache = cacheOf(dtype);
    append(cache, data);
    const error = relativeL2(attend(cache, data, 20, choice), truth(data, 20));
    expect(error).toBeGreaterThanOrEqual(floor);
    expect(error).toBeLessThan(ceiling);
  });

  it('holds the same bits whether rows came at once or behind each other, and wherever its pages lie', () => {
    for (const dtype of ['fp32', 'fp16', 'int8', 'int4'] as const) {
      const data = rows(300, 2);
      const pool = poolOf(dtype, 16);
      const [once, bits, neighbour] = [cacheOf(dtype), cacheOf(dtype, pool), cacheOf(dtype, pool)];
      append(once, data);
      append(bits, data, 0, 64);
      for (let t = 64; t < 300; t += 59) {
        append(neighbour, data, t, t + 40); // takes the page behind
        append(bits, data, t, Math.min(t + 59, 300));
      }
      const pages = bits.view(0).pages!.subarray(0, 5);
      expect([...pages].some((page, i) => i > 0 && page !== pages[i - 1]! + 1)).toBe(true);
      const [a, b] = [attend(once, data, 5, 'int8'), attend(bits, data, 5, 'int8')];
      expect([...b], dtype).toEqual([...a]);
    }
  });

  it('rolls back to a length and goes on as if nothing had been', () => {
    for (const dtype of ['fp32', 'fp16', 'int8', 'int4'] as const) {
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

  it('takes back a write that failed half-way', () => {
    const isNative = status().backends.some(({ name, available }) => name === 'cpu' && available);
    for (const backend of [undefined, ...(isNative ? [selectBackend('cpu')] : [])]) {
      const shape = { layers: 1, kvHeads: KV_HEADS, headDim: HEAD_DIM, dtype: 'int8', pages: 16 } as const;
      const [straight, detour] = [1, 2].map(() => cacheOf('int8', new KvCachePool(shape, backend)));
      const data = rows(90, 3);
      const bad = rows(70, 4).map((x) => 1e9 * x); // scales that rows after it would have to keep to
      bad[69 * STRIDE + KEY_OFFSET] = Number.NaN;
      data.fill(0, 75 * STRIDE + VALUE_OFFSET, 76 * STRIDE); // a row whose scale depends on those before
      append(straight!, data);
      append(detour!, data, 0, 70);
      const pages = detour!.pageCount;
      expect(() => append(detour!, bad)).toThrowError(expect.objectContaining({ code: 'ERR_NONFINITE' }));
      detour!.truncate(70);
      expect([detour!.length, detour!.pageCount]).toEqual([70, pages]);
      append(detour!, data, 70);
      expect(flatCache(detour!.view(0))).toEqual(flatCache(straight!.view(0)));
    }
  });

  it('keeps value scales within 2^-20 of the largest before them, rows of zeros included', () => {
    for (const dtype of ['int8', 'int4'] as const) {
      const data = rows(12, 5);
      for (const zero of [0, 1, 7]) data.fill(0, zero * STRIDE + VALUE_OFFSET, (zero + 1) * STRIDE);
      for (let i = 9 * STRIDE + VALUE_OFFSET; i < 10 * STRIDE; i++) data[i]! *= 1e-9;
      const cache = cacheOf(dtype);
      append(cache, data, 0, 1); // alone at first: nothing to compare with
      const lonely = flatCache(cache.view(0));
      expect(lonely.type !== 'fp32' && lonely.valueScales[0]).toBe(1);
      append(cache, data, 1);
      const view = flatCache(cache.view(0));
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

  it('cuts INT4 codes off at 7 when the floor raises a scale that was fitted narrower than its row', () => {
    const dim = 64;
    const pages = Int32Array.of(0);
    const place = { keyOffset: 0, valueOffset: 0, stride: dim };
    const row = Float32Array.from({ length: dim }, (_, i) => Math.sin(i * i + 1)); // fitted to 0.9 of what its largest element asks for
    const alone = new CodeCacheLayer('int4', 1, dim, 1);
    const state = alone.start();
    alone.write({ data: row, tokens: 1, ...place }, state, pages, 0);
    const large = new Float32Array(dim);
    large[0] = state.largest[0]! * 1.02 * 2 ** 20 * 7 * Math.sqrt(dim); // turned it asks for 1.02 · 2^20 of the row's scale
    const layer = new CodeCacheLayer('int4', 1, dim, 1);
    layer.write({ data: Float32Array.of(...large, ...row), tokens: 2, ...place }, layer.start(), pages, 0);
    const { values, valueScales } = layer.view(pages, 2) as { values: Uint8Array; valueScales: Float32Array };
    expect(valueScales[1]! / state.largest[0]!).toBeCloseTo(1.02, 5);
    const codes = unpackInt4(values.subarray(dim / 2, dim));
    const turned = hadamardRotate(row, dim);
    const nearest = Int8Array.from(turned, (x) => Math.max(-7, Math.min(7, Math.round(x / valueScales[1]!))));
    expect(codes).toEqual(nearest);
    expect(Math.max(...turned) / valueScales[1]!).toBeGreaterThan(7.5);
  });

  it('takes pages as it grows, refuses more than its maximum, and gives all of them back', () => {
    const pool = poolOf('int8', 8);
    const cache = new KvCache(pool, { maxTokens: 300 });
    const data = rows(300, 6);
    append(cache, data, 0, 10);
    expect(pool.counts()).toEqual({ pages: 8, used: 1, kept: 0 });
    expect(pool.pageBytes).toBe(2 * KV_HEADS * 64 * (HEAD_DIM + 4));
    append(cache, data, 10, 300);
    expect(pool.counts().used).toBe(5);
    expect(() => append(cache, data, 0, 1)).toThrowError(expect.objectContaining({ code: 'ERR_SHAPE' }));
    const other = new KvCache(pool, { maxTokens: 300 });
    append(other, data, 0, 192);
    expect(() => append(other, data, 192, 193)).toThrowError(expect.objectContaining({ code: 'ERR_OOM' }));
    expect(other.reserve(1)).toBe(false);
    cache.dispose();
    cache.dispose();
    expect(pool.counts()).toEqual({ pages: 8, used: 3, kept: 0 });
    expect(other.reserve(65)).toBe(true);
    expect(() => cache.view(0)).toThrowError(expect.objectContaining({ code: 'ERR_DISPOSED' }));
    other.dispose();
    expect(pool.counts().used).toBe(0);
  });

  it('shares the pages of those that began alike, and copies one before it is changed', () => {
    for (const dtype of ['fp32', 'int8', 'int4'] as const) {
      const pool = poolOf(dtype, 8);
      const data = rows(200, 7);
      const ids = Array.from({ length: 200 }, (_, i) => i);
      const first = cacheOf(dtype, pool);
      for (const [from, to] of [
        [0, 64],
        [64, 128],
        [128, 140],
      ] as const) {
        append(first, data, from, to);
        first.settle(ids.slice(from, to));
      }
      first.publish();
      const second = cacheOf(dtype, pool);
      expect(second.adopt(ids.slice(0, 128))).toBe(64); // the last token is always computed
      expect(second.adopt(ids.slice(64, 150))).toBe(64);
      expect(second.length).toBe(128);
      append(second, data, 128, 200);
      expect([...second.view(0).pages!.subarray(0, 2)]).toEqual([...first.view(0).pages!.subarray(0, 2)]);
      expect(pool.counts().used).toBe(3 + 2);
      const alone = cacheOf(dtype);
      append(alone, data, 0, 64);
      append(alone, data, 64, 200);
      const wanted = [...attend(alone, data, 5, 'int8')];
      expect([...attend(second, data, 5, 'int8')], dtype).toEqual(wanted);
      second.forget(100); // in the middle of a shared page
      append(second, rows(40, 8), 0, 40);
      second.truncate(0);
      append(first, data, 140, 200);
      expect([...attend(first, data, 5, 'int8')], dtype).toEqual(wanted);
      first.dispose();
      second.dispose();
      expect(pool.counts()).toEqual({ pages: 8, used: 0, kept: 2 });
      const greedy = cacheOf(dtype, pool);
      append(greedy, rows(500, 9));
      expect(pool.counts()).toEqual({ pages: 8, used: 8, kept: 0 });
    }
  });

  it('shares nothing whose bits another might not compute', () => {
    const pool = poolOf('int8', 8);
    const data = rows(200, 7);
    const ids = Array.from({ length: 200 }, (_, i) => i);
    const short = cacheOf('int8', pool); // begins with 20 tokens, so its key offset is theirs
    append(short, data, 0, 20);
    short.settle(ids.slice(0, 20));
    append(short, data, 20, 84);
    short.settle(ids.slice(20, 84));
    short.publish();
    expect(pool.counts().kept).toBe(0);
    expect(cacheOf('int8', pool).adopt(ids)).toBe(0);
    const zeros = cacheOf('int8', pool); // value scales of nothing but zeros may change yet
    const blank = data.slice();
    for (let t = 0; t < 64; t++) blank.fill(0, t * STRIDE + VALUE_OFFSET, (t + 1) * STRIDE);
    append(zeros, blank, 0, 64);
    zeros.settle(ids.slice(0, 64));
    zeros.publish();
    expect(pool.counts().kept).toBe(0);
    append(zeros, blank, 64, 128);
    zeros.settle(ids.slice(64, 128));
    zeros.publish();
    expect(pool.counts().kept).toBe(0); // the first page never settled as one of its own
  });
});

describe('a cache whose backend has its own way to quantize rows', () => {
  const isNative = status().backends.some(({ name, available }) => name === 'cpu' && available);
  const poolsOf = (headDim: number) => {
    const shape = { layers: 1, kvHeads: KV_HEADS, headDim, dtype: 'int8', pages: 4 } as const;
    return [new KvCachePool(shape), new KvCachePool(shape, selectBackend('cpu'))];
  };

  // Zeros first, then rows of them among others, and one far smaller than the rest: all that a value's scale depends on.
  it.skipIf(!isNative)('stores the very bits that TypeScript does, page by page', () => {
    for (const headDim of [8, 24, 64]) {
      const width = KV_HEADS * headDim;
      const random = new Random(headDim);
      const data = Float32Array.from({ length: 200 * 2 * width }, (_, i) => {
        const token = Math.floor(i / (2 * width));
        const isValue = i % (2 * width) >= width;
        const x = 2 * random.next() - 1;
        if (!isValue) return 3 * x + 20;
        return token < 5 || token % 11 === 0 ? 0 : token === 31 ? 1e-12 * x : x;
      });
      const [plain, fast] = poolsOf(headDim).map((pool) => {
        pool.pages.take(); // the first page is another sequence's
        const cache = new KvCache(pool, { maxTokens: 192, isExact: true, space: 'test' });
        for (const [from, to] of [
          [0, 3],
          [3, 4],
          [4, 130],
          [130, 190],
        ] as const) {
          const part = data.subarray(from * 2 * width, to * 2 * width);
          cache.append(0, { data: part, tokens: to - from, keyOffset: 0, valueOffset: width, stride: 2 * width });
        }
        return cache.view(0);
      });
      expect(fast!.pages![1]).toBe(plain!.pages![1]);
      expect(fast).toEqual(plain);
    }
  });

  it.skipIf(!isNative)('names the element that is not finite, and keeps what was there', () => {
    const cache = new KvCache(poolsOf(HEAD_DIM)[1]!, { maxTokens: 192, isExact: true, space: 'test' });
    append(cache, rows(3, 1));
    const bad = rows(2, 2);
    bad[VALUE_OFFSET + 5] = Number.NaN;
    expect(() => append(cache, bad)).toThrow(/NaN/);
    expect(cache.length).toBe(3);
  });
});
