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
 * @throws {IntFlashError} `ERR_ARG_TYPE`, `ERR_SHAPE`, `ERR_NONFINITE`.
 * @see arXiv:2601.04719, which stores K and V this way.
 */
export function quantizePerChannelInt8(input: FloatInput, dim: number): PerChannelInt8 {
  const data = readFloatInput(input);
  countRows(data.length, dim);
  const scales = new Float32Array(dim);
  for (let i = 0; i < data.length; i++) {
    const magnitude = Math.abs(data[i]!);
    if (!(magnitude < Infinity)) throw nonFinite(data[i]!, i);
    if (magnitude > scales[i % dim]!) scales[i % dim] = magnitude;
  }
  for (let d = 0; d < dim; d++) scales[d] = symmetricScale(scales[d]!, MAX_INT8_CODE);
  const values = new Int8Array(data.length);
  for (let i = 0; i < data.length; i++) values[i] = roundHalfEven(Math.fround(data[i]! / scales[i % dim]!));
  return { values, scales };
}

/** The numbers the codes stand for, rounded to float32. */
export function dequantizePerChannelInt8({ values, scales }: PerChannelInt8): Float32Array {
  const dim = scales.length;
  return Float32Array.from(values, (code, i) => saturate(code * scales[i % dim]!));
}
