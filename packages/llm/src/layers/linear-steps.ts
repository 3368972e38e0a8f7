import type { Linear, LinearSteps } from '@int-flash/ops';
import { rmsNorm } from './rms-norm.js';
import { swiglu } from './swiglu.js';

/**
 * A linear layer with the steps around it, in one call where the backend can, one after the other where it cannot. The arithmetic is
 * the same.
 *
 * @param input [tokens, linear.cols]
 * @param out   [tokens, linear.rows], half as wide with `swiglu`.
 */
export function runLinear(
  linear: Linear,
  input: Float32Array,
  tokens: number,
  out: Float32Array,
  steps: LinearSteps,
): void {
  if (linear.fusedSync) {
    linear.fusedSync(input, tokens, out, steps);
    return;
  }
  const { norm } = steps;
  let rows = input;
  if (norm) {
    rows = new Float32Array(input.length);
    rmsNorm(input, tokens, norm.gain, norm.epsilon, rows);
  }
  if (steps.swiglu) {
    swiglu(linear.forwardSync(rows, tokens), tokens, linear.rows / 2, out);
  } else if (steps.accumulate) {
    addTo(out, linear.forwardSync(rows, tokens));
  } else {
    linear.forwardSync(rows, tokens, out);
  }
}

/** Adds `from` to `to`, element by element. */
export function addTo(to: Float32Array, from: Float32Array): void {
  for (let i = 0; i < from.length; i++) to[i]! += from[i]!;
}
