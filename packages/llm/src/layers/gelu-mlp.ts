const SQRT_2_OVER_PI = Math.sqrt(2 / Math.PI);
const TWO_OVER_SQRT_PI = 2 / Math.sqrt(Math.PI);

/** `exact`: x · Φ(x). `tanh`: GPT-2's approximation of it, which its weights were trained with. */
export type GeluKind = 'exact' | 'tanh';

/** Applies GELU to every element, in place. Source: arXiv:1606.08415, both forms. */
export function gelu(values: Float32Array, kind: GeluKind): void {
  if (kind === 'tanh') {
    for (let i = 0; i < values.length; i++) {
      const x = values[i]!;
      values[i] = 0.5 * x * (1 + Math.tanh(SQRT_2_OVER_PI * (x + 0.044715 * x * x * x)));
    }
    return;
  }
  for (let i = 0; i < values.length; i++) values[i] = 0.5 * values[i]! * (1 + erf(values[i]! * Math.SQRT1_2));
}

/** The error function to about 1e-13: its Taylor series up to |x| = 3, the continued fraction of erfc beyond. */
function erf(x: number): number {
  const magnitude = Math.abs(x);
  if (magnitude > 6) return Math.sign(x); // 1 − erf(6) < 2^-53
  if (magnitude <= 3) {
    let term = x;
    let sum = x;
    for (let n = 1; Math.abs(term) > 1e-17 * Math.abs(sum); n++) {
      term *= (-x * x) / n;
      sum += term / (2 * n + 1);
    }
    return TWO_OVER_SQRT_PI * sum;
  }
  let fraction = magnitude;
  for (let k = 60; k >= 1; k--) fraction = magnitude + k / 2 / fraction;
  return Math.sign(x) * (1 - Math.exp(-magnitude * magnitude) / (Math.sqrt(Math.PI) * fraction));
}
