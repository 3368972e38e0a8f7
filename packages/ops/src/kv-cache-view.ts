import { toFloat32 } from './float-formats.js';
import { IntFlashError } from './int-flash-error.js';
import { plainArray } from './plain-array.js';

/** Tokens of a page: a paged cache is shared out, and shared, in such pieces. */
export const KV_PAGE_TOKENS = 64;

/**
 * A layer's keys and values of one sequence, as the runtime's cache holds them; [kvHeads, capacity, headDim] each.
 * Only `length` tokens of each head are read.
 *
 * - `fp16`: bits of IEEE 754 binary16. `int8`: codes in [-127, 127]; `int4`: two codes in [-7, 7] a byte, low nibble first (quant's packInt4).
 * - Key row j of head h stands for `codes · keyScales[h · capacity + j]`, minus a vector that is the same for every key
 *   of the head (smooth-K), to which softmax is blind. Value rows stand for `codes · valueScales[h · capacity + j]`.
 */
export type KvCacheView = {
  readonly kvHeads: number;
  readonly capacity: number;
  readonly headDim: number;
  readonly length: number;
  /**
   * Where the rows are one sequence's pages among others': token t lies in row `pages[t / 64] · 64 + t % 64` of each head. A page may
   * belong to several sequences. Absent: in row t.
   */
  readonly pages?: Int32Array | undefined;
} & (
  | { readonly type: 'fp32'; readonly keys: Float32Array; readonly values: Float32Array }
  | { readonly type: 'fp16'; readonly keys: Uint16Array; readonly values: Uint16Array }
  | {
      readonly type: 'int8';
      readonly keys: Int8Array;
      readonly values: Int8Array;
      readonly keyScales: Float32Array;
      readonly valueScales: Float32Array;
    }
  | {
      readonly type: 'int4';
      readonly keys: Uint8Array;
      readonly values: Uint8Array;
      readonly keyScales: Float32Array;
      readonly valueScales: Float32Array;
    }
);

/** A view without pages and without float16. */
export type FlatCacheView = Exclude<KvCacheView, { readonly type: 'fp16' }>;

/**
 * The same keys and values with every token in its own row and float16 widened: a copy where that is not so already. Arrays are
 * `plainArray`s.
 *
 * @throws {IntFlashError} `ERR_SHAPE` for a block table that is too short or names a page that is not there.
 */
export function flatCache(cache: KvCacheView): FlatCacheView {
  const plain = withPlainArrays(cache);
  const flat = plain.pages ? gatherPages(plain, plain.pages) : plain;
  if (flat.type !== 'fp16') return flat;
  return { ...flat, type: 'fp32', keys: toFloat32(flat.keys, 'float16'), values: toFloat32(flat.values, 'float16') };
}

function withPlainArrays(cache: KvCacheView): KvCacheView {
  const plain: Record<string, unknown> = { ...cache };
  for (const name of ['keys', 'values', 'keyScales', 'valueScales', 'pages']) plain[name] = plainArray(plain[name]);
  return plain as KvCacheView;
}

function gatherPages(cache: KvCacheView, pages: Int32Array): KvCacheView {
  const { kvHeads, headDim, length, capacity } = cache;
  expectPages(pages, length, capacity);
  const shape = { kvHeads, headDim, length, capacity: length };
  const gather = <T extends Float32Array | Uint16Array | Int8Array | Uint8Array>(from: T, row: number): T => {
    const gathered = new (from.constructor as new (size: number) => T)(kvHeads * length * row);
    for (let head = 0; head < kvHeads; head++) {
      for (let token = 0; token < length; token += KV_PAGE_TOKENS) {
        const first = head * capacity + pages[token / KV_PAGE_TOKENS]! * KV_PAGE_TOKENS;
        const count = Math.min(KV_PAGE_TOKENS, length - token);
        gathered.set(from.subarray(first * row, (first + count) * row) as never, (head * length + token) * row);
      }
    }
    return gathered;
  };
  if (cache.type === 'fp32')
    return { ...shape, type: 'fp32', keys: gather(cache.keys, headDim), values: gather(cache.values, headDim) };
  if (cache.type === 'fp16')
    return { ...shape, type: 'fp16', keys: gather(cache.keys, headDim), values: gather(cache.values, headDim) };
  const scales = { keyScales: gather(cache.keyScales, 1), valueScales: gather(cache.valueScales, 1) };
  return cache.type === 'int8'
    ? { ...shape, ...scales, type: 'int8', keys: gather(cache.keys, headDim), values: gather(cache.values, headDim) }
    : {
        ...shape,
        ...scales,
        type: 'int4',
        keys: gather(cache.keys, headDim / 2),
        values: gather(cache.values, headDim / 2),
      };
}

function expectPages(pages: Int32Array, length: number, capacity: number): void {
  const needed = Math.ceil(length / KV_PAGE_TOKENS);
  if (pages.length < needed)
    throw new IntFlashError('ERR_SHAPE', `Expected pages to hold ${needed} elements, got ${pages.length}`);
  const there = Math.floor(capacity / KV_PAGE_TOKENS);
  const odd = pages.subarray(0, needed).find((page) => page < 0 || page >= there);
  if (odd !== undefined) throw new IntFlashError('ERR_SHAPE', `Expected pages from 0 to ${there - 1}, got ${odd}`);
}
