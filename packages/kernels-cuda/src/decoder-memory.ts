import { type DecoderMemory, type DecoderMemoryShape, KV_PAGE_TOKENS } from '@int-flash/ops';

export const MAX_HEAD_DIM = 256; // what the kernels are compiled for
/** Of a head as they store it (kernels/cache_page.h: padded_head). */
const PADDED_DIMS = [64, 128, MAX_HEAD_DIM] as const;
/** A key's scale, and logarithm and inverse of a value's weight, in float32. */
const FACTOR_BYTES = 3 * 4;
/** The largest value scale so far, in float32. */
const STATE_BYTES = 4;
/** Columns of a scale, at least, where weights are in INT4. */
const LEAST_GROUP = 32;
/** Channels that a layer's input is filled up to, at most (kernels/linear_int4.h: kInt4Columns). */
const PADDED_COLUMNS = 128;

/**
 * What pages of a cache take on a GPU: for each layer and KV head an image of 64 keys and 64 values, and what goes on behind them (kernels/cache_page.h: page_bytes);
 * and a step's tokens (native/decoder_memory.cc: Decoder::reserve_rows, reserve_layer_scratch).
 *
 * @returns undefined for heads wider than 256, which the kernels do not hold.
 */
export function decoderMemory(deviceBytes: number, shape: DecoderMemoryShape): DecoderMemory | undefined {
  const { layers, kvHeads, headDim } = shape;
  const padded = PADDED_DIMS.find((width) => headDim <= width);
  if (padded === undefined) return undefined;
  const pageOf = (codeBytes: number) =>
    layers * kvHeads * (KV_PAGE_TOKENS * (2 * codeBytes + FACTOR_BYTES) + STATE_BYTES);
  const pageBytes = { int8: pageOf(padded), int4: pageOf(padded / 2) };
  return { deviceBytes, pageBytes, tokenBytes: tokenBytes(shape, padded) };
}

function tokenBytes({ heads, kvHeads, headDim, hiddenSize, intermediateSize }: DecoderMemoryShape, padded: number) {
  const qkv = (heads + 2 * kvHeads) * headDim;
  const columns = Math.max(hiddenSize, intermediateSize, heads * headDim) + PADDED_COLUMNS;
  const widest = Math.max(2 * intermediateSize, hiddenSize);
  const floats = hiddenSize + 2 * columns + 2 + qkv + heads + widest + kvHeads;
  const sums = Math.max(widest, qkv); // of the library's products
  const groups = columns + 4 * Math.ceil(columns / LEAST_GROUP); // an INT4 layer's input
  return 4 * (floats + sums) + columns + groups + heads * padded;
}
