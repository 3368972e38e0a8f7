import type { KvCacheDtype } from './runtime.js';

const BYTES_PER_ELEMENT: Record<KvCacheDtype, number> = { fp32: 4, fp16: 2, int8: 1, int4: 0.5 };
const BYTES_PER_SCALE = 4; // float32, one for each key row and each value row

/** Bytes of keys and values of one sequence of `tokens` tokens, scales included. */
export function kvCacheBytes(
  model: { readonly layers: number; readonly kvHeads: number; readonly headDim: number },
  dtype: KvCacheDtype,
  tokens: number,
): number {
  const rows = 2 * model.layers * model.kvHeads * tokens;
  const scale = dtype === 'int8' || dtype === 'int4' ? BYTES_PER_SCALE : 0;
  return rows * (Math.ceil(model.headDim * BYTES_PER_ELEMENT[dtype]) + scale);
}
