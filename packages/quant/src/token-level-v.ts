import { hostArray } from '@int-flash/ops';
import { checkLength, float32Array, int8Array, readFields } from './argument-check.js';
import { countRows, type FloatInput, maxAbs, readFloatInput } from './float-input.js';
import { roundHalfEven } from './round-half-even.js';
import { MAX_INT8_CODE, saturate } from './symmetric-scale.js';

/** V as `channelScales[d] · tokenWeights[j] · values[j, d]`. */
export interface TokenLevelV {
  /** [tokens, dim], row-major, each in [-127, 127]. */
  readonly values: Int8Array;
  /** [tokens], each in [2^-20, 1]; they go into the softmax exponent as log2. */
  readonly tokenWeights: Float32Array;
  /** [dim], > 0 wherever the channel maximum is a normal float32 times 127; they go into the epilogue. */
  readonly channelScales: Float32Array;
}

const MIN_WEIGHT = 2 ** -20;

/**
 * Token-level V: a scale a channel times a scale a token, so that neither an outlier channel nor a token of small values
 * (an attention sink) costs the others their precision (docs/arithmetic.md, Quantizing).
 *
 * Guarantees `|v - channel·weight·code| <= channel·weight / 2` up to float32 rounding (at most 2^-21 of the channel's maximum
 * for a token below the floor).
 * @param input [tokens, dim]: one sequence of one KV head.
 * @throws {IntFlashError} `ERR_ARG_TYPE`, `ERR_SHAPE`, `ERR_BUFFER_*`, `ERR_OOM`, `ERR_NONFINITE`.
 */
export function quantizeTokenLevelV(input: FloatInput, dim: number): TokenLevelV {
  const data = readFloatInput(input);
  const tokens = countRows(data.length, dim);
  maxAbs(data, 0, data.length); // throws on NaN and ±Infinity
  const maxima = hostArray(Float32Array, dim, 'maxima of channels');
  for (let i = 0, d = 0; i < data.length; i++, d = d + 1 === dim ? 0 : d + 1) {
    const magnitude = Math.abs(data[i]!);
    if (magnitude > maxima[d]!) maxima[d] = magnitude;
  }
  const channelScales = hostArray(Float32Array, dim, 'scales of channels');
  for (let d = 0; d < dim; d++) {
    if (maxima[d] === 0) maxima[d] = 1;
    channelScales[d] = maxima[d]! / MAX_INT8_CODE;
  }
  const values = hostArray(Int8Array, data.length, 'codes');
  const tokenWeights = hostArray(Float32Array, tokens, 'weights of tokens');
  const row = hostArray(Float32Array, dim, 'a row');
  for (let token = 0; token < tokens; token++) {
    let weight = MIN_WEIGHT;
    for (let d = 0; d < dim; d++) {
      row[d] = data[token * dim + d]! / maxima[d]!;
      const magnitude = Math.abs(row[d]!);
      if (magnitude > weight) weight = magnitude;
    }
    tokenWeights[token] = weight;
    const step = Math.fround(weight / MAX_INT8_CODE);
    for (let d = 0; d < dim; d++) values[token * dim + d] = roundHalfEven(Math.fround(row[d]! / step));
  }
  return { values, tokenWeights, channelScales };
}

/**
 * The numbers the codes stand for, rounded to float32.
 *
 * @throws {IntFlashError} `ERR_ARG_TYPE`, `ERR_SHAPE` when codes and scales do not fit each other, `ERR_BUFFER_*`, `ERR_OOM`.
 */
export function dequantizeTokenLevelV(codes: TokenLevelV): Float32Array {
  const { values, tokenWeights, channelScales } = readFields<TokenLevelV>(codes, {
    values: int8Array,
    tokenWeights: float32Array,
    channelScales: float32Array,
  });
  const dim = channelScales.length;
  checkLength(tokenWeights, 'tokenWeights', countRows(values.length, dim, 'values'), 'as many rows');
  const out = hostArray(Float32Array, values.length, 'the numbers that codes stand for');
  for (let i = 0; i < values.length; i++)
    out[i] = saturate(channelScales[i % dim]! * tokenWeights[Math.floor(i / dim)]! * values[i]!);
  return out;
}
