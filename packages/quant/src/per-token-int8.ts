import { hostArray } from '@int-flash/ops';
import { checkLength, float32Array, int8Array, readFields } from './argument-check.js';
import { countRows, type FloatInput, maxAbs, readFloatInput } from './float-input.js';
import { roundHalfEven } from './round-half-even.js';
import { dequantizeRuns, MAX_INT8_CODE, symmetricScale } from './symmetric-scale.js';

/** INT8 rows with one scale each; row i stands for `values[i, :] * scales[i]`. */
export interface PerTokenInt8 {
  /** [tokens, dim], row-major, each in [-127, 127]. */
  readonly values: Int8Array;
  /** [tokens], in the unit of the input, always > 0. */
  readonly scales: Float32Array;
}

/**
 * Quantizes each token with its own scale: `scale = max|row| / 127`, `code = round(x / scale)`.
 *
 * Guarantees `|x - code * scale| <= scale / 2` (up to float32 rounding), and the same bits as the native
 * quantizers: all divide in float32 and round ties to even.
 * @param input [tokens, dim], row-major, finite.
 * @param dim   Row length, >= 1. The input's length must be a multiple of it; zero tokens are fine.
 * @throws {IntFlashError} `ERR_ARG_TYPE`, `ERR_SHAPE`, `ERR_BUFFER_*`, `ERR_OOM`, `ERR_NONFINITE` (the message names the element).
 * @see INT-FlashAttention, arXiv:2409.16997: token-level scales for Q and K.
 */
export function quantizePerTokenInt8(input: FloatInput, dim: number): PerTokenInt8 {
  const data = readFloatInput(input);
  const tokens = countRows(data.length, dim);
  const values = hostArray(Int8Array, data.length, 'codes');
  const scales = hostArray(Float32Array, tokens, 'scales');
  for (let token = 0; token < tokens; token++) {
    const from = token * dim;
    scales[token] = symmetricScale(maxAbs(data, from, from + dim), MAX_INT8_CODE);
    encode(data, values, from, from + dim, scales[token]!);
  }
  return { values, scales };
}

/** Codes of elements [from, to) that share one scale. */
export function encode(data: Float32Array, values: Int8Array, from: number, to: number, scale: number): void {
  for (let i = from; i < to; i++) values[i] = roundHalfEven(Math.fround(data[i]! / scale));
}

/**
 * The numbers the codes stand for, rounded to float32.
 *
 * @throws {IntFlashError} `ERR_ARG_TYPE`, `ERR_SHAPE` when codes and scales do not fit each other, `ERR_BUFFER_*`, `ERR_OOM`.
 */
export function dequantizePerTokenInt8(codes: PerTokenInt8, dim: number): Float32Array {
  const { values, scales } = readFields<PerTokenInt8>(codes, { values: int8Array, scales: float32Array });
  checkLength(scales, 'scales', countRows(values.length, dim, 'values'), 'as many rows');
  return dequantizeRuns(values, scales, dim);
}
