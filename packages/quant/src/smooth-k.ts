import { hostArray } from '@int-flash/ops';
import { countRows, type FloatInput, maxAbs, readFloatInput } from './float-input.js';

/** Tokens that are summed before their sum joins the others: a tile of the attention, so that tiles can be summed side by side. */
const RUN = 128;

export interface SmoothedK {
  /** `[tokens, dim]`: the input minus `mean` in every row. */
  readonly values: Float32Array;
  /** [dim]; q · mean, times the softmax scale, goes back onto the log-sum-exp. */
  readonly mean: Float32Array;
}

/**
 * Subtracts each channel's mean over the tokens. Softmax does not see the difference, and the per-token INT8 grid no longer
 * spends its range on what all keys share (language models' keys carry large per-channel offsets).
 *
 * `mean[d] = f32(total / tokens)`, where `total` adds up, in order and in float64, the sums of runs of 128 tokens, each summed in order;
 * `values = f32(k - mean)`.
 * Not exact under a softcap, which is not blind to a shift: leave K as it is there.
 * @param input [tokens, dim]: one sequence of one KV head, finite.
 * @throws {IntFlashError} `ERR_ARG_TYPE`, `ERR_SHAPE`, `ERR_BUFFER_*`, `ERR_OOM`, `ERR_NONFINITE`.
 * @see SageAttention, arXiv:2410.02367.
 */
export function smoothK(input: FloatInput, dim: number): SmoothedK {
  const data = readFloatInput(input);
  const tokens = countRows(data.length, dim);
  maxAbs(data, 0, data.length); // throws on NaN and ±Infinity
  const sums = hostArray(Float64Array, dim, 'sums of channels');
  for (let start = 0, i = 0; start < tokens; start += RUN) {
    const run = hostArray(Float64Array, dim, 'sums of channels');
    for (let token = start; token < Math.min(start + RUN, tokens); token++)
      for (let d = 0; d < dim; d++, i++) run[d]! += data[i]!;
    for (let d = 0; d < dim; d++) sums[d]! += run[d]!;
  }
  const mean = hostArray(Float32Array, dim, 'means of channels');
  if (tokens > 0) for (let d = 0; d < dim; d++) mean[d] = sums[d]! / tokens;
  const values = hostArray(Float32Array, data.length, 'smoothed keys');
  for (let token = 0, i = 0; token < tokens; token++)
    for (let d = 0; d < dim; d++, i++) values[i] = data[i]! - mean[d]!;
  return { values, mean };
}
