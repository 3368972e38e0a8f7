import { hostArray } from '@int-flash/ops';
import { checkCount } from './argument-check.js';
import { countRows, type FloatInput, maxAbs, readFloatInput } from './float-input.js';

/**
 * The block a head dimension is rotated in: the largest power of two that divides it (80 → 16, 96 → 32, 128 → 128).
 *
 * @throws {IntFlashError} `ERR_ARG_TYPE`, `ERR_ARG_RANGE` unless dim is a positive integer.
 */
export function hadamardBlock(dim: number): number {
  checkCount(dim, 'dim');
  let block = 1;
  while (dim % (2 * block) === 0) block *= 2; // not `dim & -dim`, which knows 32 bits
  return block;
}

/**
 * Multiplies each row by the orthonormal Hadamard matrix, which spreads an outlier channel over all of them.
 *
 * Rotating Q and K alike leaves Q·Kᵀ as it is; applying it twice gives the input back (the matrix is symmetric and its own inverse).
 * Sylvester's construction exists for powers of two only. Another `dim` is rotated in blocks of {@link hadamardBlock}, a
 * block-diagonal matrix with the same two properties; an odd dim is returned unchanged.
 *
 * Float64 inside; each result is rounded to float32 once, so `|H(H(x)) - x| <= 2^-23 · (‖row‖₂ + |x|)`.
 * @param input [tokens, dim], row-major, finite. A row whose 2-norm exceeds FLT_MAX may overflow to Infinity.
 * @throws {IntFlashError} `ERR_ARG_TYPE`, `ERR_SHAPE`, `ERR_BUFFER_*`, `ERR_OOM`, `ERR_NONFINITE`.
 */
export function hadamardRotate(input: FloatInput, dim: number): Float32Array {
  const data = readFloatInput(input);
  countRows(data.length, dim);
  maxAbs(data, 0, data.length); // throws on NaN and ±Infinity
  const block = hadamardBlock(dim);
  const norm = 1 / Math.sqrt(block);
  const out = hostArray(Float32Array, data.length, 'turned rows');
  if (data.length === 0) return out;
  const work = hostArray(Float64Array, block, 'a block of a row');
  for (let from = 0; from < data.length; from += block) {
    for (let i = 0; i < block; i++) work[i] = data[from + i]!;
    butterflies(work);
    for (let i = 0; i < block; i++) out[from + i] = work[i]! * norm;
  }
  return out;
}

/**
 * log2(length) stages of sums and differences in place, two stages at a time: the same additions as one by one, so the same bits, with half the
 * reading and writing.
 */
function butterflies(work: Float64Array): void {
  const { length } = work;
  let half = 1;
  if (Math.log2(length) % 2 === 1) {
    for (let i = 0; i < length; i += 2) {
      const a = work[i]!;
      const b = work[i + 1]!;
      work[i] = a + b;
      work[i + 1] = a - b;
    }
    half = 2;
  }
  for (; half < length; half *= 4) {
    for (let start = 0; start < length; start += 4 * half) {
      for (let i = start; i < start + half; i++) {
        const a = work[i]!;
        const b = work[i + half]!;
        const c = work[i + 2 * half]!;
        const d = work[i + 3 * half]!;
        work[i] = a + b + (c + d);
        work[i + half] = a - b + (c - d);
        work[i + 2 * half] = a + b - (c + d);
        work[i + 3 * half] = a - b - (c - d);
      }
    }
  }
}
