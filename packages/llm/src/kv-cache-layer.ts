import {
  type Backend,
  checkChoice,
  IntFlashError,
  type KeyScales,
  KV_PAGE_TOKENS,
  type KvCacheView,
} from '@int-flash/ops';
import { CodeCacheLayer } from './code-cache-layer.js';
import { FloatCacheLayer } from './float-cache-layer.js';

export const KV_CACHE_DTYPES = ['fp32', 'fp16', 'int8', 'int4'] as const;
/** How a cache stores keys and values; the sizes are 4, 2, 1 and 1/2 byte an element, the latter two with two scales a token and head. */
export type KvCacheDtype = (typeof KV_CACHE_DTYPES)[number];

/** Whether it stores keys and values as they are, without scales. */
export function isFloat(dtype: KvCacheDtype): dtype is 'fp32' | 'fp16' {
  return dtype === 'fp32' || dtype === 'fp16';
}

const KEY_SCALES = ['token', 'channel'] as const satisfies readonly KeyScales[];

/** @throws {IntFlashError} `ERR_ARG_TYPE`, `ERR_ARG_RANGE`, also for scales of floats: they have none. */
export function judgeKeyScales(given: unknown, dtype: KvCacheDtype): KeyScales {
  const keyScales = checkChoice(given, 'kvKeyScales', KEY_SCALES, 'token');
  if (keyScales === 'channel' && isFloat(dtype)) {
    throw new IntFlashError(
      'ERR_ARG_RANGE',
      `Expected kvCacheDtype to be int8 or int4 with kvKeyScales 'channel', got ${dtype}`,
      { hint: 'Keys in fp32 and fp16 have no scales: leave kvKeyScales (--kv-key-scales) out.' },
    );
  }
  return keyScales;
}

/** New keys and values of `tokens` positions: row t of either starts at its offset + t · stride and holds all kv heads. */
export interface KeyValueRows {
  readonly data: Float32Array;
  readonly tokens: number;
  readonly keyOffset: number;
  readonly valueOffset: number;
  readonly stride: number;
}

/** Writes rows into a cache of codes. @returns false when some row is not finite. */
export type WriteRows = (
  cache: Extract<KvCacheView, { readonly type: 'int8' | 'int4' }>,
  keyShift: Float32Array,
  largestValueScale: Float32Array,
) => boolean;

/** One layer's part of a sequence besides its rows. */
export interface LayerState {
  /** Subtracted from the keys, [kvHeads, headDim]; empty for floats. Frozen at the first write, so sequences that begin alike share it. */
  offsets: Float32Array;
  /** Divides keys and offsets, and multiplies queries ({@link channelScales}); frozen with the offsets. */
  channels: Float32Array;
  /** Per head: the largest value scale so far, 0 while all value rows were zero; empty for floats. */
  largest: Float32Array;
}

/** One layer's keys and values of all sequences of a pool, [kvHeads, pages · 64, headDim]. */
export interface KvCacheLayer {
  readonly pageBytes: number;
  start(): LayerState;
  /** Stores rows behind a sequence's first `length` tokens, for which its block table has pages that nobody else reads. May change `rows`. */
  write(rows: KeyValueRows, state: LayerState, pages: Int32Array, length: number): void;
  /**
   * The same by a backend that writes the rows itself, behind at least one token; `rows` get them. @returns false, with nothing done, where this
   * cache's rows are not what backends write.
   */
  writeBy(write: WriteRows, rows: KeyValueRows, state: LayerState, pages: Int32Array, length: number): boolean;
  view(pages: Int32Array, length: number): KvCacheView;
  copyPage(from: number, to: number): void;
  /** {@link LayerState.largest} after `length` tokens, known after the first `from`. */
  largestAt(length: number, from: number, known: Float32Array, pages: Int32Array): Float32Array;
}

/** @param backend As {@link CodeCacheLayer} has it. */
export function createKvCacheLayer(
  dtype: KvCacheDtype,
  kvHeads: number,
  headDim: number,
  pages: number,
  backend?: Backend,
  keyScales?: KeyScales,
): KvCacheLayer {
  return isFloat(dtype)
    ? new FloatCacheLayer(dtype, kvHeads, headDim, pages)
    : new CodeCacheLayer(dtype, kvHeads, headDim, pages, backend, keyScales);
}

/** Bytes that a page of one layer takes. */
export function layerPageBytes(dtype: KvCacheDtype, kvHeads: number, headDim: number): number {
  const row = { fp32: 4 * headDim, fp16: 2 * headDim, int8: headDim + 4, int4: headDim / 2 + 4 }[dtype];
  return 2 * kvHeads * KV_PAGE_TOKENS * row;
}
