import { hostArray } from '@int-flash/ops';
import { checkCount, checkLength, float32Array, int8Array, readFields } from './argument-check.js';
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
 * @throws {IntFlashError} `ERR_ARG_TYPE`, `ERR_ARG_RANGE`, `ERR_SHAPE`, `ERR_BUFFER_*`, `ERR_OOM`, `ERR_NONFINITE`.
 */
export function quantizePerBlockInt8(input: FloatInput, dim: number, blockTokens = 64): PerBlockInt8 {
  checkCount(blockTokens, 'blockTokens');
  const data = readFloatInput(input);
  const tokens = countRows(data.length, dim);
  const values = hostArray(Int8Array, data.length, 'codes');
  const scales = hostArray(Float32Array, Math.ceil(tokens / blockTokens), 'scales');
  for (let block = 0; block < scales.length; block++) {
    const from = block * blockTokens * dim;
    const to = Math.min(from + blockTokens * dim, data.length);
    scales[block] = symmetricScale(maxAbs(data, from, to), MAX_INT8_CODE);
    encode(data, values, from, to, scales[block]!);
  }
  return { values, scales, blockTokens };
}

/**
 * The numbers the codes stand for, rounded to float32.
 *
 * @throws {IntFlashError} `ERR_ARG_TYPE`, `ERR_ARG_RANGE`, `ERR_SHAPE` when codes and scales do not fit each other, `ERR_BUFFER_*`, `ERR_OOM`.
 */
export function dequantizePerBlockInt8(codes: PerBlockInt8, dim: number): Float32Array {
  const { values, scales, blockTokens } = readFields<PerBlockInt8>(codes, {
    values: int8Array,
    scales: float32Array,
    blockTokens: checkCount,
  });
  const tokens = countRows(values.length, dim, 'values');
  checkLength(scales, 'scales', Math.ceil(tokens / blockTokens), 'as many blocks');
  return dequantizeRuns(values, scales, dim * blockTokens);
}
