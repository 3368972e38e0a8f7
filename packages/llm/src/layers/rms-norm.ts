/**
 * Root-mean-square normalisation: `out = gain · x / sqrt(mean(x²) + epsilon)`, row by row.
 *
 * @param input  [rows, gain.length]; consecutive rows start `stride` elements apart, the first at `offset`.
 * @param out    [rows, gain.length] contiguous, or `input` itself for an in-place norm over the same strides.
 * @see Root Mean Square Layer Normalization, arXiv:1910.07467.
 */
export function rmsNorm(
  input: Float32Array,
  rows: number,
  gain: Float32Array,
  epsilon: number,
  out: Float32Array,
  offset = 0,
  stride = gain.length,
): void {
  const dim = gain.length;
  const inPlace = out === input;
  for (let row = 0; row < rows; row++) {
    const from = offset + row * stride;
    const to = inPlace ? from : row * dim;
    let squares = 0;
    for (let d = 0; d < dim; d++) squares += input[from + d]! * input[from + d]!;
    const factor = 1 / Math.sqrt(squares / dim + epsilon);
    for (let d = 0; d < dim; d++) out[to + d] = gain[d]! * (input[from + d]! * factor);
  }
}
