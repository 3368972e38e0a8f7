/**
 * Turns each row by an orthonormal Hadamard matrix, in place: blocks of the largest power of two that divides `dim`.
 *
 * An outlier channel is spread over its block, so a 4-bit grid keeps more of the other channels. Rotating queries and keys alike
 * leaves q · k as it was. The matrix is symmetric: a second call undoes the first.
 * @param rows [n, dim]
 * @see QuaRot, arXiv:2404.00456.
 */
export function rotateHeads(rows: Float32Array, dim: number): void {
  const block = dim & -dim;
  const norm = 1 / Math.sqrt(block);
  for (let from = 0; from < rows.length; from += block) {
    for (let half = 1; half < block; half *= 2) {
      for (let i = from; i < from + block; i += 2 * half) {
        for (let j = i; j < i + half; j++) {
          const a = rows[j]!;
          const b = rows[j + half]!;
          rows[j] = a + b;
          rows[j + half] = a - b;
        }
      }
    }
    for (let i = from; i < from + block; i++) rows[i]! *= norm;
  }
}
