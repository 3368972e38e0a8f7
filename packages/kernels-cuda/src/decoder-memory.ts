import { type DecoderCacheShape, type DecoderMemory, KV_PAGE_TOKENS } from '@int-flash/ops';

export const MAX_HEAD_DIM = 256; // what the kernels are compiled for
/** Of a head as they store it (kernels/cache_page.h: padded_head). */
const PADDED_DIMS = [64, 128, MAX_HEAD_DIM] as const;
/** A key's scale, and logarithm and inverse of a value's weight, in float32. */
const FACTOR_BYTES = 3 * 4;
/** The largest value scale so far, in float32. */
const STATE_BYTES = 4;

/**
 * What pages of a cache take on a GPU: for each layer and KV head an image of 64 keys and 64 values, and what goes on behind them (kernels/cache_page.h: page_bytes).
 *
 * @returns undefined for heads wider than 256, which the kernels do not hold.
 */
export function decoderMemory(
  deviceBytes: number,
  { layers, kvHeads, headDim }: DecoderCacheShape,
): DecoderMemory | undefined {
  const padded = PADDED_DIMS.find((width) => headDim <= width);
  if (padded === undefined) return undefined;
  const pageOf = (codeBytes: number) =>
    layers * kvHeads * (KV_PAGE_TOKENS * (2 * codeBytes + FACTOR_BYTES) + STATE_BYTES);
  return { deviceBytes, pageBytes: { int8: pageOf(padded), int4: pageOf(padded / 2) } };
}
