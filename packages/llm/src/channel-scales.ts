import type { KeyValueRows } from './kv-cache-layer.js';

const NONE = new Float32Array(0);
/** Queries times a channel's scale stay far inside float32. */
const MOST_BITS = 30;

/** What keys' channels are scaled by, of which rows, in which cache. */
export interface ChannelRows {
  readonly rows: KeyValueRows;
  readonly kvHeads: number;
  readonly headDim: number;
}

/**
 * A power of two for each channel of the keys: 1, or what brings a channel that is more than twice as large as its head's middle one down to
 * that. A grid that all channels of a token share then need not span the few that are large.
 *
 * @param offsets Subtracted from the keys, [kvHeads, headDim].
 * @param counted Rows that decide.
 * @returns [kvHeads, headDim]; empty where all are 1.
 */
export function channelScales(
  { rows, kvHeads, headDim }: ChannelRows,
  offsets: Float32Array,
  counted: number,
): Float32Array {
  const { data, keyOffset, stride } = rows;
  const largest = new Float32Array(kvHeads * headDim);
  for (let token = 0; token < counted; token++) {
    for (let d = 0; d < largest.length; d++) {
      const size = Math.abs(Math.fround(data[keyOffset + token * stride + d]! - offsets[d]!));
      if (size > largest[d]!) largest[d] = size;
    }
  }
  const exponents = Array.from(new Uint32Array(largest.buffer), (bits) => bits >>> 23);
  const scales = new Float32Array(largest.length);
  for (let head = 0; head < kvHeads; head++) {
    const own = exponents.slice(head * headDim, (head + 1) * headDim);
    const middle = [...own].sort((a, b) => a - b)[Math.floor(headDim / 2)]!;
    own.forEach((exponent, d) => {
      scales[head * headDim + d] = 2 ** Math.min(Math.max(exponent - middle - 1, 0), MOST_BITS);
    });
  }
  return scales.some((scale) => scale !== 1) ? scales : NONE;
}

/** Divides keys by their channels' scales, in place. */
export function divideKeys({ data, tokens, keyOffset, stride }: KeyValueRows, scales: Float32Array): void {
  for (let token = 0; token < tokens; token++) {
    const row = keyOffset + token * stride;
    for (let d = 0; d < scales.length; d++) data[row + d]! /= scales[d]!;
  }
}

/** Multiplies queries, [tokens, heads, headDim], by the scales of the keys that they meet, in place. */
export function multiplyQueries(query: Float32Array, heads: number, kvHeads: number, scales: Float32Array): void {
  const headDim = scales.length / kvHeads;
  const group = heads / kvHeads;
  for (let row = 0; row < query.length / headDim; row++) {
    const from = Math.floor((row % heads) / group) * headDim;
    for (let d = 0; d < headDim; d++) query[row * headDim + d]! *= scales[from + d]!;
  }
}
