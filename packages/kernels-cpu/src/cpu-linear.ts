import { IntFlashError, type Linear, type LinearSteps, type LinearWeights } from '@int-flash/ops';
import { widenInt4Linear } from '@int-flash/quant';
import type { NativeAddon } from './native-addon.js';
import { typedError } from './native-error.js';
import type { Placement } from './native-parameters.js';

// Bits of linearForward's flags: native/linear_binding.cc is the other half.
const SWIGLU = 1;
const ACCUMULATE = 2;

/** A linear layer whose weights lie in the addon, in the layout of one instruction set. */
export class CpuLinear implements Linear {
  readonly rows: number;
  readonly cols: number;
  readonly #addon: NativeAddon;
  #handle: object | undefined;

  constructor(addon: NativeAddon, given: LinearWeights, { isa, threads }: Placement) {
    const weights = widenInt4Linear(given);
    this.rows = weights.rows;
    this.cols = weights.cols;
    this.#addon = addon;
    const parameters = Float64Array.of(isa, threads, weights.rows, weights.cols);
    const int8 = weights.type === 'int8';
    try {
      this.#handle = addon.createLinear(
        parameters,
        int8 ? weights.codes : weights.weights,
        int8 ? weights.scales : undefined,
        weights.bias,
      );
    } catch (error) {
      throw typedError(error);
    }
  }

  forwardSync(input: Float32Array, tokens: number, out?: Float32Array): Float32Array {
    const result = out ?? new Float32Array(tokens * this.rows);
    this.#forward(input, tokens, result, 0, undefined, 0);
    return result;
  }

  fusedSync(input: Float32Array, tokens: number, out: Float32Array, steps: LinearSteps): void {
    const { norm, swiglu, accumulate } = steps;
    const flags = (swiglu ? SWIGLU : 0) + (accumulate ? ACCUMULATE : 0);
    this.#forward(input, tokens, out, flags, norm?.gain, norm?.epsilon ?? 0);
  }

  dispose(): void {
    if (!this.#handle) return;
    this.#addon.disposeLinear(this.#handle);
    this.#handle = undefined;
  }

  #forward(
    input: Float32Array,
    tokens: number,
    out: Float32Array,
    flags: number,
    gain: Float32Array | undefined,
    epsilon: number,
  ): void {
    if (!this.#handle)
      throw new IntFlashError('ERR_DISPOSED', 'Expected a linear layer in use, got one that was disposed');
    try {
      this.#addon.linearForward(this.#handle, input, tokens, out, flags, gain, epsilon);
    } catch (error) {
      throw typedError(error);
    }
  }
}
