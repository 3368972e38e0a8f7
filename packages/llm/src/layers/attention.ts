import {
  type Backend,
  type FlatCacheView,
  type FloatOperand,
  flatCache,
  IntFlashError,
  type KvCacheView,
} from '@int-flash/ops';
import { hadamardRotate, unpackInt4 } from '@int-flash/quant';

export const ATTENTION_CHOICES = ['int8', 'fp32'] as const;
/** Whether both products of attention are computed in INT8 or in float32. */
export type AttentionChoice = (typeof ATTENTION_CHOICES)[number];

export interface AttentionShape {
  readonly heads: number;
  /** Multiplies q · k. */
  readonly scale: number;
  /** Keys to the left of a query's own that it sees; Infinity = all. */
  readonly windowLeft: number;
}

/**
 * Causal attention of the last `tokens` positions against the cache, which holds their own keys and values already.
 *
 * Where cache and arithmetic agree (codes and `int8`, floats and `fp32`) the backend reads the cache as it lies. Otherwise
 * the cache is converted on every call: INT8 over a float cache quantizes all keys and values anew, fp32 over codes widens them.
 *
 * An INT4 cache holds rotated keys and values, so queries are turned likewise and the result is turned back.
 *
 * @param query [tokens, heads, headDim]; an INT4 cache leaves it turned.
 * @param out   [tokens, heads, headDim]
 */
export function attendCached(
  backend: Backend,
  choice: AttentionChoice,
  shape: AttentionShape,
  query: Float32Array,
  tokens: number,
  cache: KvCacheView,
  out: Float32Array,
): void {
  if (choice === 'int8' && (cache.type === 'fp32' || cache.type === 'fp16')) {
    const floats = flatCache(cache) as FloatCache;
    attendFloatCacheInInt8(backend, shape, query, tokens, floats, out);
    return;
  }
  const view = choice === 'fp32' && (cache.type === 'int8' || cache.type === 'int4') ? widen(flatCache(cache)) : cache;
  const { heads, scale, windowLeft } = shape;
  if (cache.type !== 'int4') {
    backend.cacheAttentionSync({ query, tokens, heads, cache: view, scale, windowLeft, softcap: 0 }, out);
    return;
  }
  turnRows(backend, query, cache.headDim);
  backend.cacheAttentionSync({ query, tokens, heads, cache: view, scale, windowLeft, softcap: 0 }, out);
  turnRows(backend, out, cache.headDim);
}

/** In place: for a long prompt, other rows would be megabytes a layer. */
function turnRows(backend: Backend, rows: Float32Array, dim: number): void {
  if (!backend.turnRowsSync) rows.set(hadamardRotate(rows, dim));
  else if (!backend.turnRowsSync(rows, dim, rows))
    throw new IntFlashError('ERR_NONFINITE', 'Expected queries and values that stay finite when they are turned');
}

type FloatCache = Extract<FlatCacheView, { type: 'fp32' }>;

function attendFloatCacheInInt8(
  backend: Backend,
  { heads, scale, windowLeft }: AttentionShape,
  query: Float32Array,
  tokens: number,
  cache: FloatCache,
  out: Float32Array,
): void {
  const { kvHeads, headDim, capacity, length } = cache;
  const cached = (data: Float32Array): FloatOperand => ({
    type: 'float32',
    data,
    strides: { batch: 0, head: capacity * headDim, token: headDim },
  });
  const rows = { batch: 0, head: headDim, token: heads * headDim };
  const result = backend.attentionSync({
    heads,
    kvHeads,
    headDim,
    headDimV: headDim,
    sequences: [{ qStart: 0, qLen: tokens, kStart: 0, kLen: length }],
    scale,
    softcap: 0,
    windowLeft,
    windowRight: 0,
    diagonal: 'bottom-right',
    mask: undefined,
    returnLse: false,
    outDims: [1, tokens, heads, headDim],
    outStrides: rows,
    lseDims: [1, heads, tokens],
    lseStrides: { batch: 0, head: tokens, token: 1 },
    precision: 'full-int8',
    smoothK: true,
    query: { type: 'float32', data: query, strides: rows },
    key: cached(cache.keys),
    value: cached(cache.values),
  });
  out.set(result.out);
}

function widen(cache: FlatCacheView): KvCacheView {
  if (cache.type === 'fp32') return cache;
  const { kvHeads, headDim, length } = cache;
  const floats = (codes: Int8Array | Uint8Array, scales: Float32Array) => {
    const out = new Float32Array(kvHeads * length * headDim);
    const rowBytes = codes.length / (kvHeads * cache.capacity);
    for (let head = 0; head < kvHeads; head++) {
      const first = head * cache.capacity;
      const stored = codes.subarray(first * rowBytes, (first + length) * rowBytes);
      const values = stored instanceof Int8Array ? stored : unpackInt4(stored);
      for (let i = 0; i < values.length; i++) {
        out[head * length * headDim + i] = values[i]! * scales[first + Math.floor(i / headDim)]!;
      }
    }
    return out;
  };
  return {
    type: 'fp32',
    kvHeads,
    headDim,
    length,
    capacity: length,
    keys: floats(cache.keys, cache.keyScales),
    values: floats(cache.values, cache.valueScales),
  };
}
