import { KV_PAGE_TOKENS } from '@int-flash/ops';
import { expect, it } from 'vitest';
import { KvCache } from '../src/kv-cache.js';
import type { KvCacheDtype } from '../src/kv-cache-layer.js';
import { KvCachePool, type KvCachePoolShape } from '../src/kv-cache-pool.js';
import { FEW_QUERIES, RUN_KEYS } from '../src/replay.js';
import { tinyDraws } from './tiny-model.js';

const [LAYERS, KV_HEADS, HEAD_DIM] = [2, 2, 8];
const WIDTH = KV_HEADS * HEAD_DIM;
const STRIDE = 2 * WIDTH;
const CHUNK = 128;
const STEP = 48; // tokens that a layer is given at once; neither pages nor chunks are whole ones
const MAX_TOKENS = 1500;
const PAGES = 60; // of 64 tokens: two long sequences and what they have in common

function poolOf(dtype: KvCacheDtype, pages: number, more: Partial<KvCachePoolShape> = {}): KvCachePool {
  return new KvCachePool({ layers: LAYERS, kvHeads: KV_HEADS, headDim: HEAD_DIM, dtype, pages, ...more });
}

function cacheOf(pool: KvCachePool): KvCache {
  return new KvCache(pool, { maxTokens: MAX_TOKENS, isExact: true, chunk: CHUNK, space: 'test' });
}

/**
 * What a transformer would write for a token: it depends on all tokens before and, behind 1,024 of them, on whether the token's own call was of few
 * (the last ones of a longer call may be computed by themselves). A third of the values are zeros, whose scales depend on those before.
 */
function rowsOf(history: readonly number[], start: number, layer: number): Float32Array {
  const count = history.length - start;
  const data = new Float32Array(count * STRIDE);
  let state = layer + 1;
  history.forEach((id, position) => {
    state = mix(state, id);
    const at = position - start;
    if (at < 0) return;
    const rest = count % STEP;
    const isFew = count <= FEW_QUERIES || (rest <= FEW_QUERIES && at >= count - rest);
    let own = mix(state, history.length > RUN_KEYS && isFew ? 1 : 0);
    const isZero = state % 3 === 0;
    for (let i = 0; i < STRIDE; i++) {
      own = mix(own, i);
      const isKey = i < WIDTH;
      const size = isKey && i % HEAD_DIM === 3 ? 30 : 1;
      data[at * STRIDE + i] = !isKey && isZero ? 0 : size * ((2 * own) / 2 ** 32 - 1);
    }
  });
  return data;
}

function mix(state: number, value: number): number {
  let x = Math.imul(state ^ (value + 0x9e3779b9), 0x85ebca6b);
  x = Math.imul(x ^ (x >>> 15), 0xc2b2ae35);
  return (x ^ (x >>> 13)) >>> 0;
}

/** One call of the transformer. @returns false when there is no page for it */
function call(cache: KvCache, ids: readonly number[]): boolean {
  if (!cache.reserve(ids.length)) return false;
  const start = cache.length;
  const history = [...cache.history.slice(0, start), ...ids];
  for (let layer = 0; layer < LAYERS; layer++) {
    const data = rowsOf(history, start, layer);
    cache.append(layer, { data, tokens: ids.length, keyOffset: 0, valueOffset: WIDTH, stride: STRIDE });
  }
  cache.settle(ids);
  return true;
}

/** Computes tokens as the scheduler does. @returns false where pages ran out on the way: the rest was not computed */
function compute(cache: KvCache, ids: readonly number[], isGuess: boolean, shares: boolean): boolean {
  for (let at = 0; at < ids.length; ) {
    if (shares && !isGuess) at += cache.adopt(ids.slice(at));
    const { missing, length } = cache;
    const next = missing > 0 ? cache.history.slice(length, length + missing) : ids.slice(at, at + CHUNK);
    if (!call(cache, next)) return false;
    if (shares && !isGuess) cache.publish();
    if (missing === 0) at += next.length;
  }
  return true;
}

/** Every code and scale that is held, in the order of tokens, and what queries are scaled by. */
function content(cache: KvCache): unknown[] {
  const all: unknown[] = [];
  for (let layer = 0; layer < LAYERS; layer++) {
    const { pages, length, capacity, keys, values, ...view } = cache.view(layer);
    const query = new Float32Array(WIDTH).fill(1);
    cache.scaleQueries(layer, query, KV_HEADS);
    all.push([...query]);
    const width = keys.length / (KV_HEADS * capacity);
    for (let token = 0; token < length; token++) {
      for (let head = 0; head < KV_HEADS; head++) {
        const row =
          head * capacity + pages![Math.floor(token / KV_PAGE_TOKENS)]! * KV_PAGE_TOKENS + (token % KV_PAGE_TOKENS);
        all.push(
          keys.slice(row * width, (row + 1) * width).join(),
          values.slice(row * width, (row + 1) * width).join(),
        );
        if ('keyScales' in view) all.push(view.keyScales[row], view.valueScales[row]);
      }
    }
  }
  return all;
}

// Each sequence has a twin that does the same in pages of its own, with nobody else there.
it.each([
  ['int8', 'token'],
  ['int8', 'channel'],
  ['int4', 'channel'],
  ['fp16', 'token'],
] as const)('sequences that share pages hold what each would alone: %s, scales of keys: %s', (dtype, keyScales) => {
  const { integer, tokens } = tinyDraws(5);
  const pool = poolOf(dtype, PAGES, { keyScales });
  const beginnings = [tokens(200), tokens(1030), tokens(1150)];
  /** With what its length was behind each call, which it may go back to: a model takes back failed calls, and guesses. */
  const sequences: { cache: KvCache; twin: KvCache; ends: number[] }[] = [];
  let adopted = 0;
  let lost = 0;
  for (let round = 0; round < 700; round++) {
    const kind = sequences.length === 0 ? 0 : integer(10);
    const at = integer(Math.max(sequences.length, 1));
    if (kind === 0 && sequences.length < 8) {
      const twin = cacheOf(poolOf(dtype, Math.ceil(MAX_TOKENS / KV_PAGE_TOKENS), { keyScales, keepsPrefixes: false }));
      sequences.push({ cache: cacheOf(pool), twin, ends: [0] });
      continue;
    }
    const { cache, twin, ends } = sequences[at]!;
    const before = twin.length;
    if (kind === 1) {
      cache.dispose();
      twin.dispose();
      sequences.splice(at, 1);
    } else if (kind === 2) {
      ends.length = 1 + integer(ends.length);
      cache.forget(ends.at(-1)!);
      twin.forget(ends.at(-1)!);
    } else if (kind === 3) {
      cache.putAside();
      lost++;
    } else if (before < 1350) {
      // A prompt, a token of an answer, or a guess of which a part was wrong.
      const isGuess = kind === 4 && before > 0;
      const beginning = beginnings[integer(3)]!;
      const own = tokens(1 + integer(isGuess ? 7 : before > 0 && kind < 8 ? 1 : 140));
      const ids = before === 0 && kind > 5 ? [...beginning, ...own] : own;
      const held = cache.length;
      while (!compute(cache, ids.slice(cache.history.length - before), isGuess, true)) {
        // Somebody has to give way; whoever cannot go on by itself either begins anew.
        const other = sequences.find((one) => one.cache !== cache && one.cache.pageCount > 0);
        expect(other, 'one sequence fits').toBeDefined();
        other!.cache.putAside();
        lost++;
      }
      adopted += held === 0 && cache.history.length > before + CHUNK ? 1 : 0;
      compute(twin, ids, isGuess, false);
      if (isGuess) {
        const right = before + 1 + integer(ids.length);
        cache.forget(right);
        twin.forget(right);
      }
      ends.push(twin.length);
      expect(cache.missing, `round ${round}`).toBe(0);
      expect(cache.history).toEqual(twin.history);
      expect(content(cache), `round ${round}, ${cache.length} tokens`).toEqual(content(twin));
    }
    const held = new Set(
      sequences.flatMap((one) =>
        one.cache.length > 0 ? [...one.cache.view(0).pages!.subarray(0, one.cache.pageCount)] : [],
      ),
    );
    expect(pool.counts().used).toBe(held.size);
  }
  expect(adopted).toBeGreaterThan(3);
  expect(lost).toBeGreaterThan(20);
  for (const { cache, twin } of sequences) {
    cache.dispose();
    twin.dispose();
  }
  expect(pool.counts().used).toBe(0);
  pool.prefixes!.clear();
  expect(pool.counts()).toEqual({ pages: PAGES, used: 0, kept: 0 });
  expect(pool.pages.free).toBe(PAGES);
});
