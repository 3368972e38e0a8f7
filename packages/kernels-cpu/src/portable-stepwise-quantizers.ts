// quant's quantizers on a whole head, a few thousand elements a step, with the same results as in one call.
import { IntFlashError } from '@int-flash/ops';
import { encodePerTokenInt4, quantizePerTokenInt8, quantizeTokenLevelV, type TokenLevelV } from '@int-flash/quant';
import { maxMagnitude, STEP_ELEMENTS, type Steps } from './portable-float-rows.js';

const MAX_FLOAT16 = 65504;
const MEAN_RUN = 128; // docs/arithmetic.md, Smooth-K: tokens summed before their sum joins the others

export interface CodedRows {
  /** [rows, dim]. */
  readonly codes: Int8Array;
  /** [rows]. */
  readonly scales: Float32Array;
}

/** Row ranges of about {@link STEP_ELEMENTS} elements each. */
function* rowRanges(length: number, dim: number): Generator<{ from: number; to: number }> {
  const rows = length / dim;
  const step = Math.max(1, Math.floor(STEP_ELEMENTS / dim));
  for (let from = 0; from < rows; from += step) yield { from, to: Math.min(from + step, rows) };
}

/** INT8 codes in [-127, 127], or in [-7, 7] for `int4`, with a scale a row. */
export function* quantizeRows(values: Float32Array, dim: number, int4: boolean): Steps<CodedRows> {
  const codes = new Int8Array(values.length);
  const scales = new Float32Array(values.length / dim);
  for (const { from, to } of rowRanges(values.length, dim)) {
    const part = values.subarray(from * dim, to * dim);
    if (int4) {
      const coded = encodePerTokenInt4(part, dim);
      codes.set(coded.codes, from * dim);
      scales.set(coded.scales, from);
    } else {
      const coded = quantizePerTokenInt8(part, dim);
      codes.set(coded.values, from * dim);
      scales.set(coded.scales, from);
    }
    yield;
  }
  return { codes, scales };
}

/** quant's smoothK: subtracts each channel's mean from `values`, in place. @returns the mean */
export function* smoothInPlace(values: Float32Array, dim: number): Steps<Float32Array> {
  const sums = new Float64Array(dim);
  const run = new Float64Array(dim);
  const rows = values.length / dim;
  for (const { from, to } of rowRanges(values.length, dim)) {
    for (let row = from, i = from * dim; row < to; row++) {
      for (let d = 0; d < dim; d++, i++) run[d]! += values[i]!;
      if ((row + 1) % MEAN_RUN !== 0 && row + 1 < rows) continue;
      for (let d = 0; d < dim; d++) sums[d]! += run[d]!;
      run.fill(0);
    }
    yield;
  }
  const mean = Float32Array.from(sums, (sum) => (rows > 0 ? sum / rows : 0));
  for (const { from, to } of rowRanges(values.length, dim)) {
    for (let row = from, i = from * dim; row < to; row++) for (let d = 0; d < dim; d++, i++) values[i]! -= mean[d]!;
    yield;
  }
  return mean;
}

/** quant's quantizeTokenLevelV. */
export function* quantizeValues(values: Float32Array, dim: number): Steps<TokenLevelV> {
  const maxima = new Float32Array(dim);
  for (const { from, to } of rowRanges(values.length, dim)) {
    for (let row = from, i = from * dim; row < to; row++) {
      for (let d = 0; d < dim; d++, i++) maxima[d] = Math.max(maxima[d]!, Math.abs(values[i]!));
    }
    yield;
  }
  const codes = new Int8Array(values.length);
  const tokenWeights = new Float32Array(values.length / dim);
  // A row of the head's channel maxima behind each part makes the part's maxima the head's, so quant's own function serves.
  let channelScales = quantizeTokenLevelV(maxima, dim).channelScales;
  for (const { from, to } of rowRanges(values.length, dim)) {
    const part = new Float32Array((to - from + 1) * dim);
    part.set(values.subarray(from * dim, to * dim));
    part.set(maxima, (to - from) * dim);
    const coded = quantizeTokenLevelV(part, dim);
    codes.set(coded.values.subarray(0, (to - from) * dim), from * dim);
    tokenWeights.set(coded.tokenWeights.subarray(0, to - from), from);
    channelScales = coded.channelScales;
    yield;
  }
  return { values: codes, tokenWeights, channelScales };
}

// By the exponent field of a float32: the number which, added and subtracted in float64, rounds to float16's step at that magnitude.
const FLOAT16_ROUNDERS = Float64Array.from(
  { length: 256 },
  (_, exponent) => 1.5 * 2 ** (52 + Math.max(exponent - 127, -14) - 10),
);

/** Rounds `values` to float16 and back, ties to even, in place. @throws {IntFlashError} `ERR_OVERFLOW` above 65504. */
export function* roundToFloat16(values: Float32Array<ArrayBuffer>): Steps<void> {
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length);
  for (let from = 0; from < values.length; from += STEP_ELEMENTS) {
    const to = Math.min(from + STEP_ELEMENTS, values.length);
    const largest = maxMagnitude(values.subarray(from, to));
    if (largest > MAX_FLOAT16) {
      throw new IntFlashError(
        'ERR_OVERFLOW',
        `Expected |value| of at most ${MAX_FLOAT16} for half-int8, got ${largest}`,
        {
          hint: 'float16 holds no more; use full-int8 or scale the values down.',
        },
      );
    }
    for (let i = from; i < to; i++) {
      const rounder = FLOAT16_ROUNDERS[(bits[i]! >>> 23) & 255]!;
      values[i] = values[i]! + rounder - rounder;
    }
    yield;
  }
}
