import { IntFlashError } from '@int-flash/ops';
import { countRows, type FloatInput, maxAbs, readFloatInput } from './float-input.js';
import { encode } from './per-token-int8.js';
import { dequantizeRuns, MAX_INT8_CODE, symmetricScale } from './symmetric-scale.js';

/** INT8 rows of which `blockTokens` neighbours share a scale; row i stands for `values[i, :] * scales[floor(i / blockTokens)]`. */
export interface PerBlockInt8 {
  /** [tokens, dim], row-major, each in [-127, 127]. */
  readonly values: Int8Array;
  /** [ceil(tokens / blockTokens)], > 0. */
  readonly scales: Float32Array;
  readonly blockTokens: number;
}

/**
 * One scale for each run of `blockTokens` tokens, the last run possibly shorter: `scale = max|block| / 127`.
 *
 * Guarantees `|x - code * scale| <= scale / 2` (up to float32 rounding).
 * @param input       [tokens, dim], row-major, finite.
 * @param blockTokens Tokens a scale, >= 1; SageAttention (arXiv:2410.02367) takes 64 for K and 128 for Q.
 * @throws {IntFlashError} `ERR_ARG_TYPE`, `ERR_ARG_RANGE`, `ERR_SHAPE`, `ERR_NONFINITE`.
 */
export function quantizePerBlockInt8(input: FloatInput, dim: number, blockTokens = 64): PerBlockInt8 {
  if (!Number.isInteger(blockTokens) || blockTokens < 1) {
    throw new IntFlashError('ERR_ARG_RANGE', `Expected blockTokens to be a positive integer, got ${blockTokens}`);
  }
  const data = readFloatInput(input);
  const tokens = countRows(data.length, dim);
  const values = new Int8Array(data.length);
  const scales = new Float32Array(Math.ceil(tokens / blockTokens));
  for (let block = 0; block < scales.length; block++) {
    const from = block * blockTokens * dim;
    const to = Math.min(from + blockTokens * dim, data.length);
    scales[block] = symmetricScale(maxAbs(data, from, to), MAX_INT8_CODE);
    encode(data, values, from, to, scales[block]!);
  }
  return { values, scales, blockTokens };
}

/** The numbers the codes stand for, rounded to float32. */
export function dequantizePerBlockInt8({ values, scales, blockTokens }: PerBlockInt8, dim: number): Float32Array {
  return dequantizeRuns(values, scales, dim * blockTokens);
}
