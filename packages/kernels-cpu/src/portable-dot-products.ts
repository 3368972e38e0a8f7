// Inner loops of the portable backend. Each works on one kind of typed array only, so that V8 compiles it once.
//
// Integer products take two codes at a time: a float64 holds x + y·2^26, so one multiplication by a third code z gives
// x·z and y·z at once, exactly, as long as each sum of products stays below 2^25 in magnitude. That doubles the rate of
// a machine whose JavaScript has no vector instructions.

/** What the upper of two packed codes is multiplied by. */
export const FIELD = 2 ** 26;
const INVERSE_FIELD = 2 ** -26;
const ROUNDER = 1.5 * 2 ** 52; // adding and subtracting it rounds a float64 below 2^51 to the nearest integer

/** Longest row whose packed sums stay exact: 128 · 128 · 2048 = 2^25. Nothing here multiplies -128 by -128 that often. */
export const MAX_PACKED_LENGTH = 2048;

/** Packs two rows of `length` codes, `low` and `high`, into `out`. */
export function packRowPair(
  codes: Int8Array,
  low: number,
  high: number,
  length: number,
  out: Float64Array,
  at: number,
): void {
  for (let t = 0; t < length; t++) out[at + t] = codes[low + t]! + codes[high + t]! * FIELD;
}

/** Packs one row with zeros beside it: the last of an odd number. */
export function packLoneRow(codes: Int8Array, row: number, length: number, out: Float64Array, at: number): void {
  for (let t = 0; t < length; t++) out[at + t] = codes[row + t]!;
}

/**
 * Adds the inner products of 4 rows of `a` with 4 rows of codes, packed in 2 rows of `b`, to a 4 × 4 block of `out`.
 *
 * @param a      Codes as float64, rows `aStride` apart from `aStart`.
 * @param b      Packed pairs, rows `bStride` apart from `bStart`.
 * @param length Up to {@link MAX_PACKED_LENGTH}.
 */
export function addPackedDots(
  a: Float64Array,
  aStart: number,
  aStride: number,
  b: Float64Array,
  bStart: number,
  bStride: number,
  length: number,
  out: Float64Array,
  outStart: number,
  outStride: number,
): void {
  let s00 = 0;
  let s01 = 0;
  let s10 = 0;
  let s11 = 0;
  let s20 = 0;
  let s21 = 0;
  let s30 = 0;
  let s31 = 0;
  const a1 = aStart + aStride;
  const a2 = a1 + aStride;
  const a3 = a2 + aStride;
  const b1 = bStart + bStride;
  for (let t = 0; t < length; t++) {
    const y0 = b[bStart + t]!;
    const y1 = b[b1 + t]!;
    const x0 = a[aStart + t]!;
    const x1 = a[a1 + t]!;
    const x2 = a[a2 + t]!;
    const x3 = a[a3 + t]!;
    s00 += x0 * y0;
    s01 += x0 * y1;
    s10 += x1 * y0;
    s11 += x1 * y1;
    s20 += x2 * y0;
    s21 += x2 * y1;
    s30 += x3 * y0;
    s31 += x3 * y1;
  }
  addUnpacked(s00, s01, out, outStart);
  addUnpacked(s10, s11, out, outStart + outStride);
  addUnpacked(s20, s21, out, outStart + 2 * outStride);
  addUnpacked(s30, s31, out, outStart + 3 * outStride);
}

function addUnpacked(first: number, second: number, out: Float64Array, at: number): void {
  const high0 = first * INVERSE_FIELD + ROUNDER - ROUNDER;
  const high1 = second * INVERSE_FIELD + ROUNDER - ROUNDER;
  out[at]! += first - high0 * FIELD;
  out[at + 1]! += high0;
  out[at + 2]! += second - high1 * FIELD;
  out[at + 3]! += high1;
}

/**
 * Inner products of 4 rows of `a` with 2 rows of `b`, written to a 4 × 2 block of `out`: float32 fused multiply-adds in order,
 * starting from 0. All values are float32 numbers held as float64.
 */
export function writeFmaDots(
  a: Float64Array,
  aStart: number,
  aStride: number,
  b: Float64Array,
  bStart: number,
  bStride: number,
  length: number,
  out: Float64Array,
  outStart: number,
  outStride: number,
): void {
  let s00 = 0;
  let s01 = 0;
  let s10 = 0;
  let s11 = 0;
  let s20 = 0;
  let s21 = 0;
  let s30 = 0;
  let s31 = 0;
  const a1 = aStart + aStride;
  const a2 = a1 + aStride;
  const a3 = a2 + aStride;
  const b1 = bStart + bStride;
  for (let t = 0; t < length; t++) {
    const y0 = b[bStart + t]!;
    const y1 = b[b1 + t]!;
    const x0 = a[aStart + t]!;
    const x1 = a[a1 + t]!;
    const x2 = a[a2 + t]!;
    const x3 = a[a3 + t]!;
    // fma32 of quant, written out: eight calls an iteration would exceed V8's inlining budget.
    s00 = Math.fround(x0 * y0 + s00);
    s01 = Math.fround(x0 * y1 + s01);
    s10 = Math.fround(x1 * y0 + s10);
    s11 = Math.fround(x1 * y1 + s11);
    s20 = Math.fround(x2 * y0 + s20);
    s21 = Math.fround(x2 * y1 + s21);
    s30 = Math.fround(x3 * y0 + s30);
    s31 = Math.fround(x3 * y1 + s31);
  }
  out[outStart] = s00;
  out[outStart + 1] = s01;
  out[outStart + outStride] = s10;
  out[outStart + outStride + 1] = s11;
  out[outStart + 2 * outStride] = s20;
  out[outStart + 2 * outStride + 1] = s21;
  out[outStart + 3 * outStride] = s30;
  out[outStart + 3 * outStride + 1] = s31;
}

/** Inner products of one vector with 4 consecutive rows of `weights`, exact in int32 up to length 131,072. */
export function writeCodeDots(x: Int8Array, weights: Int8Array, start: number, length: number, out: Int32Array): void {
  let s0 = 0;
  let s1 = 0;
  let s2 = 0;
  let s3 = 0;
  const w1 = start + length;
  const w2 = w1 + length;
  const w3 = w2 + length;
  for (let t = 0; t < length; t++) {
    const value = x[t]!;
    s0 = (s0 + Math.imul(value, weights[start + t]!)) | 0;
    s1 = (s1 + Math.imul(value, weights[w1 + t]!)) | 0;
    s2 = (s2 + Math.imul(value, weights[w2 + t]!)) | 0;
    s3 = (s3 + Math.imul(value, weights[w3 + t]!)) | 0;
  }
  out[0] = s0;
  out[1] = s1;
  out[2] = s2;
  out[3] = s3;
}

/** Inner products, in float64, of 4 vectors (rows of `x`, `length` apart) with 2 consecutive rows of `weights`, into out[4 × 2]. */
export function writeFloatDots(
  x: Float64Array,
  xStart: number,
  weights: Float32Array,
  start: number,
  length: number,
  out: Float64Array,
): void {
  let s00 = 0;
  let s01 = 0;
  let s10 = 0;
  let s11 = 0;
  let s20 = 0;
  let s21 = 0;
  let s30 = 0;
  let s31 = 0;
  const x1 = xStart + length;
  const x2 = x1 + length;
  const x3 = x2 + length;
  const w1 = start + length;
  for (let t = 0; t < length; t++) {
    const y0 = weights[start + t]!;
    const y1 = weights[w1 + t]!;
    const v0 = x[xStart + t]!;
    const v1 = x[x1 + t]!;
    const v2 = x[x2 + t]!;
    const v3 = x[x3 + t]!;
    s00 += v0 * y0;
    s01 += v0 * y1;
    s10 += v1 * y0;
    s11 += v1 * y1;
    s20 += v2 * y0;
    s21 += v2 * y1;
    s30 += v3 * y0;
    s31 += v3 * y1;
  }
  out[0] = s00;
  out[1] = s01;
  out[2] = s10;
  out[3] = s11;
  out[4] = s20;
  out[5] = s21;
  out[6] = s30;
  out[7] = s31;
}

/** Inner products, in float64, of one vector with 4 consecutive rows of `weights`. */
export function writeFloatVectorDots(
  x: Float64Array,
  weights: Float32Array,
  start: number,
  length: number,
  out: Float64Array,
): void {
  let s0 = 0;
  let s1 = 0;
  let s2 = 0;
  let s3 = 0;
  const w1 = start + length;
  const w2 = w1 + length;
  const w3 = w2 + length;
  for (let t = 0; t < length; t++) {
    const value = x[t]!;
    s0 += value * weights[start + t]!;
    s1 += value * weights[w1 + t]!;
    s2 += value * weights[w2 + t]!;
    s3 += value * weights[w3 + t]!;
  }
  out[0] = s0;
  out[1] = s1;
  out[2] = s2;
  out[3] = s3;
}
