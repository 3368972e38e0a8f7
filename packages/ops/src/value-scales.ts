import type { RowStrides } from './attention-plan.js';
import { IntFlashError } from './int-flash-error.js';

const LARGEST_VALUE = 2 ** 100;
const SMALLEST_TOKEN_SCALE = 2 ** -100;
const WIDEST_TOKEN_SCALES = 2 ** 100;
/** What a quantizer says of a row of zeros. */
const SCALE_OF_ZEROS = 2 ** -126;

/** Codes of V, row t of a head being `width` of them. */
interface ValueCodes {
  readonly data: Int8Array;
  readonly strides: RowStrides;
}

/**
 * Judges the scales of coded values, finite and above 0 already (docs/arithmetic.md). A token's scale is a weight that softmax takes into its
 * exponents: too small a one beside others would swamp the row sum. Rows of zeros count for nothing with any scale, so they take the largest.
 *
 * @param scales     [batch, kvHeads, keys] where `tokenLevel`, else [batch, kvHeads].
 * @param ofChannels [batch, kvHeads, headDimV]; times `scales`.
 * @returns `scales`, or a copy.
 * @throws {IntFlashError} `ERR_OVERFLOW` for values above 2^100, `ERR_ARG_RANGE` for a token's scale too far below.
 */
export function judgeValueScales(
  scales: Float32Array,
  ofChannels: Float32Array | undefined,
  tokenLevel: boolean,
  { data, strides }: ValueCodes,
  { heads, keys, width }: { readonly heads: number; readonly keys: number; readonly width: number },
): Float32Array {
  const largest = largestOf(scales);
  const largestProduct = largest * (ofChannels ? largestOf(ofChannels) : 1);
  if (largestProduct > LARGEST_VALUE / 127) {
    throw new IntFlashError(
      'ERR_OVERFLOW',
      `Expected values of at most 2^100 in magnitude, got scales up to ${largestProduct.toExponential(2)} of codes`,
    );
  }
  if (!tokenLevel) return scales;
  const least = Math.max(SMALLEST_TOKEN_SCALE, largest / WIDEST_TOKEN_SCALES);
  let filled: Float32Array | undefined;
  for (let i = 0; i < scales.length; i++) {
    const scale = scales[i]!;
    if (scale >= least) continue;
    const head = Math.floor(i / keys);
    const row = Math.floor(head / heads) * strides.batch + (head % heads) * strides.head + (i % keys) * strides.token;
    if (scale !== SCALE_OF_ZEROS || data.subarray(row, row + width).some((code) => code !== 0)) {
      throw new IntFlashError(
        'ERR_ARG_RANGE',
        `Expected vScale to hold scales of at least ${least.toExponential(2)}, 2^-100 and 2^100 below the largest, got ${scale} at element ${i}`,
      );
    }
    filled ??= scales.slice();
    filled[i] = largest > SCALE_OF_ZEROS ? largest : 1;
  }
  return filled ?? scales;
}

function largestOf(values: Float32Array): number {
  return values.reduce((most, value) => Math.max(most, value), 0);
}
