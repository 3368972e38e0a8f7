/**
 * `out = silu(gate) · up`, with silu(x) = x / (1 + e^−x).
 *
 * @param gateUp [tokens, 2 · width]: each row holds the gate, then the up projection.
 * @param out    [tokens, width]
 * @see GLU Variants Improve Transformer, arXiv:2002.05202.
 */
export function swiglu(gateUp: Float32Array, tokens: number, width: number, out: Float32Array): void {
  for (let token = 0; token < tokens; token++) {
    const gate = token * 2 * width;
    const up = gate + width;
    for (let d = 0; d < width; d++) {
      const x = gateUp[gate + d]!;
      out[token * width + d] = (x / (1 + Math.exp(-x))) * gateUp[up + d]!;
    }
  }
}

/** `x / (1 + e^−x)` of every element, in place. */
export function silu(values: Float32Array): void {
  for (let i = 0; i < values.length; i++) values[i] = values[i]! / (1 + Math.exp(-values[i]!));
}
