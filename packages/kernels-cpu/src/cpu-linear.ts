import {
  arrayLength,
  hostArray,
  IntFlashError,
  type Linear,
  type LinearSteps,
  type LinearWeights,
} from '@int-flash/ops';
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

  constructor(addon: NativeAddon, weights: LinearWeights, { isa, threads }: Placement) {
    this.rows = weights.rows;
    this.cols = weights.cols;
    this.#addon = addon;
    const { type, rows, cols, bias } = weights;
    const stored = type === 'fp32' ? weights.weights : type === 'int8' ? weights.codes : weights.packed;
    const group = type === 'int4' ? weights.group : 0;
    const scales = type === 'fp32' ? undefined : weights.scales;
    try {
      this.#handle = addon.createLinear(Float64Array.of(isa, threads, rows, cols, group), stored, scales, bias);
    } catch (error) {
      throw typedError(error);
    }
  }

  forwardSync(input: Float32Array, tokens: number, out?: Float32Array): Float32Array {
    const result = out ?? this.#answerTo(input, tokens);
    this.#forward(input, tokens, result, 0, undefined, 0);
    return result;
  }

  fusedSync(input: Float32Array, tokens: number, out: Float32Array, steps: LinearSteps): void {
    const { norm, swiglu, accumulate } = steps;
    const flags = (swiglu ? SWIGLU : 0) + (accumulate ? ACCUMULATE : 0);
    this.#forward(input, tokens, out, flags, norm?.gain, norm?.epsilon ?? 0);
  }

  /** What the addon knows it by; undefined once it is disposed. */
  get handle(): object | undefined {
    return this.#handle;
  }

  dispose(): void {
    if (!this.#handle) return;
    this.#addon.disposeLinear(this.#handle);
    this.#handle = undefined;
  }

  #answerTo(input: Float32Array, tokens: number): Float32Array {
    const length = arrayLength(input, 'input');
    if (length !== tokens * this.cols)
      throw new IntFlashError('ERR_SHAPE', `Expected input to hold ${tokens * this.cols} elements, got ${length}`);
    return hostArray(Float32Array, tokens * this.rows, 'the answer');
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
