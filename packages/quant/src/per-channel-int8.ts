import { hostArray } from '@int-flash/ops';
import { float32Array, int8Array, readFields } from './argument-check.js';
import { countRows, type FloatInput, nonFinite, readFloatInput } from './float-input.js';
import { roundHalfEven } from './round-half-even.js';
import { MAX_INT8_CODE, saturate, symmetricScale } from './symmetric-scale.js';

/** INT8 columns with one scale each; column d stands for `values[:, d] * scales[d]`. */
export interface PerChannelInt8 {
  /** [tokens, dim], row-major, each in [-127, 127]. */
  readonly values: Int8Array;
  /** [dim], > 0. */
  readonly scales: Float32Array;
}

/**
 * Quantizes each channel with its own scale over all tokens: `scale[d] = max_j |x[j, d]| / 127`.
 *
 * Guarantees `|x - code * scale[d]| <= scale[d] / 2` (up to float32 rounding). Needs every token before the first code can be
 * written, so as a KV-cache format it suits a finished prompt, not a growing cache.
 * @param input [tokens, dim], row-major, finite.
 * @throws {IntFlashError} `ERR_ARG_TYPE`, `ERR_SHAPE`, `ERR_BUFFER_*`, `ERR_OOM`, `ERR_NONFINITE`.
 * @see arXiv:2601.04719, which stores K and V this way.
 */
export function quantizePerChannelInt8(input: FloatInput, dim: number): PerChannelInt8 {
  const data = readFloatInput(input);
  countRows(data.length, dim);
  const scales = hostArray(Float32Array, dim, 'scales');
  for (let i = 0; i < data.length; i++) {
    const magnitude = Math.abs(data[i]!);
    if (!(magnitude < Infinity)) throw nonFinite(data[i]!, i);
    if (magnitude > scales[i % dim]!) scales[i % dim] = magnitude;
  }
  for (let d = 0; d < dim; d++) scales[d] = symmetricScale(scales[d]!, MAX_INT8_CODE);
  const values = hostArray(Int8Array, data.length, 'codes');
  for (let i = 0; i < data.length; i++) values[i] = roundHalfEven(Math.fround(data[i]! / scales[i % dim]!));
  return { values, scales };
}

/**
 * The numbers the codes stand for, rounded to float32.
 *
 * @throws {IntFlashError} `ERR_ARG_TYPE`, `ERR_SHAPE` when codes and scales do not fit each other, `ERR_BUFFER_*`, `ERR_OOM`.
 */
export function dequantizePerChannelInt8(codes: PerChannelInt8): Float32Array {
  const { values, scales } = readFields<PerChannelInt8>(codes, { values: int8Array, scales: float32Array });
  const dim = scales.length;
  countRows(values.length, dim, 'values');
  const out = hostArray(Float32Array, values.length, 'the numbers that codes stand for');
  for (let i = 0; i < values.length; i++) out[i] = saturate(values[i]! * scales[i % dim]!);
  return out;
}
