import { hostArray, IntFlashError, type Linear, type LinearWeights } from '@int-flash/ops';
import type { DeviceHandle, LinearHandle, NativeAddon } from './native-addon.js';
import type { NativeLinear } from './native-decoder.js';
import { callNative } from './native-error.js';

/** A linear layer whose weights lie on the GPU; inputs and outputs in host memory are copied on each call. */
export class CudaLinear implements Linear {
  readonly rows: number;
  readonly cols: number;
  readonly #addon: NativeAddon;
  readonly #device: DeviceHandle;
  #handle: LinearHandle | undefined;

  /** @throws {IntFlashError} `ERR_SHAPE` when the arrays do not fit `rows` and `cols`, `ERR_OOM`. */
  constructor(addon: NativeAddon, device: DeviceHandle, weights: LinearWeights) {
    const { rows, cols, bias } = weights;
    this.rows = rows;
    this.cols = cols;
    this.#addon = addon;
    this.#device = device;
    if (bias) expectLength('bias', bias, rows);
    this.#handle = callNative(() => addon.createLinear(device, { rows, cols, bias, ...nativeWeights(weights) }));
  }

  /** @throws {IntFlashError} `ERR_SHAPE`, `ERR_DISPOSED`, `ERR_OOM`. */
  forwardSync(input: Float32Array, tokens: number, given?: Float32Array): Float32Array {
    const handle = this.nativeHandle();
    expectLength('input', input, tokens * this.cols);
    const out = given ?? hostArray(Float32Array, tokens * this.rows, 'the answer');
    expectLength('out', out, tokens * this.rows);
    if (tokens > 0) callNative(() => this.#addon.linearForward(this.#device, handle, input, tokens, out));
    return out;
  }

  dispose(): void {
    if (!this.#handle) return;
    this.#addon.disposeLinear(this.#handle);
    this.#handle = undefined;
  }

  /** @internal What the addon knows it by. @throws {IntFlashError} `ERR_DISPOSED`. */
  nativeHandle(): LinearHandle {
    if (!this.#handle)
      throw new IntFlashError('ERR_DISPOSED', 'Expected a live linear layer, got one that was disposed');
    return this.#handle;
  }
}

function nativeWeights(weights: LinearWeights): Omit<NativeLinear, 'rows' | 'cols' | 'bias'> {
  const { type, rows, cols } = weights;
  if (type === 'fp32') {
    expectLength('weights', weights.weights, rows * cols);
    return { weights: weights.weights };
  }
  if (type === 'int8') {
    const { codes, scales } = weights;
    expectLength('weights', codes, rows * cols);
    expectLength('scales', scales, rows);
    return { codes, scales };
  }
  const { packed, scales, group } = weights;
  if (cols % group !== 0)
    throw new IntFlashError('ERR_SHAPE', `Expected columns that are a multiple of group ${group}, got ${cols}`);
  expectLength('packed', packed, (rows * cols) / 2);
  expectLength('scales', scales, (rows * cols) / group);
  return { packed, scales, group };
}

function expectLength(name: string, array: ArrayLike<number>, expected: number): void {
  if (array.length !== expected)
    throw new IntFlashError('ERR_SHAPE', `Expected ${name} to hold ${expected} elements, got ${array.length}`);
}
