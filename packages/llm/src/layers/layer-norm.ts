/**
 * Layer normalisation: `out = gain · (x − mean) / sqrt(variance + epsilon) + bias`, row by row, the variance over n.
 *
 * @param input [rows, gain.length]
 * @param bias  [gain.length], or undefined for none.
 * @param out   [rows, gain.length]; may be `input`.
 */
export function layerNorm(
  input: Float32Array,
  rows: number,
  gain: Float32Array,
  bias: Float32Array | undefined,
  epsilon: number,
  out: Float32Array,
): void {
  const dim = gain.length;
  for (let row = 0; row < rows; row++) {
    const from = row * dim;
    let sum = 0;
    for (let d = 0; d < dim; d++) sum += input[from + d]!;
    const mean = sum / dim;
    let squares = 0;
    for (let d = 0; d < dim; d++) squares += (input[from + d]! - mean) ** 2;
    const factor = 1 / Math.sqrt(squares / dim + epsilon);
    for (let d = 0; d < dim; d++) out[from + d] = (input[from + d]! - mean) * factor * gain[d]! + (bias?.[d] ?? 0);
  }
}
