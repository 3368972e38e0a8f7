import { hostArray } from '@int-flash/ops';
import { float32Array, readFields, uint8Array } from './argument-check.js';
import { countRows, type FloatInput, maxAbs, readFloatInput } from './float-input.js';
import { packInt4, unpackChecked } from './int4-packing.js';
import { encode } from './per-token-int8.js';
import { dequantizeRuns, MAX_INT4_CODE, symmetricScale } from './symmetric-scale.js';

/** INT4 rows with one scale each; row i stands for `codes[i, :] * scales[i]`. */
export interface PerTokenInt4 {
  /** [tokens, dim] codes in [-7, 7], two a byte along the whole array, low nibble first. */
  readonly packed: Uint8Array;
  /** [tokens], > 0. */
  readonly scales: Float32Array;
}

/**
 * One INT4 scale a token: `scale = max|row| / 7`; guarantees `|x - code * scale| <= scale / 2` (up to float32 rounding).
 *
 * @param input [tokens, dim], row-major, finite.
 * @throws {IntFlashError} `ERR_ARG_TYPE`, `ERR_SHAPE`, `ERR_BUFFER_*`, `ERR_OOM`, `ERR_NONFINITE`.
 */
export function quantizePerTokenInt4(input: FloatInput, dim: number): PerTokenInt4 {
  const { codes, scales } = encodePerTokenInt4(input, dim);
  return { packed: packInt4(codes), scales };
}

/**
 * The same codes one a byte, as `int4-qk` attention multiplies them.
 *
 * @throws {IntFlashError} as {@link quantizePerTokenInt4}.
 */
export function encodePerTokenInt4(input: FloatInput, dim: number): { codes: Int8Array; scales: Float32Array } {
  const data = readFloatInput(input);
  const tokens = countRows(data.length, dim);
  const codes = hostArray(Int8Array, data.length, 'codes');
  const scales = hostArray(Float32Array, tokens, 'scales');
  for (let token = 0; token < tokens; token++) {
    const from = token * dim;
    scales[token] = symmetricScale(maxAbs(data, from, from + dim), MAX_INT4_CODE);
    encode(data, codes, from, from + dim, scales[token]!);
  }
  return { codes, scales };
}

/**
 * The numbers the codes stand for, rounded to float32.
 *
 * @throws {IntFlashError} `ERR_ARG_TYPE`, `ERR_SHAPE` when codes and scales do not fit each other, `ERR_BUFFER_*`, `ERR_OOM`.
 */
export function dequantizePerTokenInt4(codes: PerTokenInt4, dim: number): Float32Array {
  const { packed, scales } = readFields<PerTokenInt4>(codes, { packed: uint8Array, scales: float32Array });
  countRows(0, dim, 'codes');
  return dequantizeRuns(unpackChecked(packed, scales.length * dim), scales, dim);
}
