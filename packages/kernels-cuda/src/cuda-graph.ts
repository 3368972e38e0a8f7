import { checkInteger, checkOptions, checkSignal, IntFlashError, readArguments } from '@int-flash/ops';
import { type CudaStream, checkStream } from './cuda-stream.js';
import type { CudaTensor } from './cuda-tensor.js';
import type { DeviceHandle, GraphHandle, NativeAddon } from './native-addon.js';
import { withAbortFlag } from './native-error.js';

export interface ReplayOptions {
  /** Launches in a row; 1 when absent. */
  readonly repeats?: number;
  readonly stream?: CudaStream;
  /** Honoured before each launch. */
  readonly signal?: AbortSignal;
}

/**
 * Operations recorded by `CudaDevice.capture`, replayed as one launch. It reads the same tensors each time (`CudaTensor.write` changes
 * their numbers) and writes the same outputs. It keeps what it reads alive and owns what it writes.
 */
export class CudaGraph<T = unknown> {
  readonly #addon: NativeAddon;
  readonly #device: DeviceHandle;
  readonly #handle: GraphHandle;
  readonly #outputs: readonly CudaTensor[];
  #disposed = false;

  /** @internal */
  constructor(
    addon: NativeAddon,
    device: DeviceHandle,
    handle: GraphHandle,
    outputs: readonly CudaTensor[],
    /** What the recording function returned. Its tensors hold the outputs of the last replay, at first of the recording. */
    readonly result: T,
  ) {
    this.#addon = addon;
    this.#device = device;
    this.#handle = handle;
    this.#outputs = outputs;
  }

  get disposed(): boolean {
    return this.#disposed;
  }

  /**
   * Runs everything once more, or `repeats` times, and judges the data as the operations themselves would.
   *
   * @returns `ms`: the GPU's time for all of it.
   * @throws {IntFlashError} `ERR_NONFINITE`, `ERR_OVERFLOW`, `ERR_DISPOSED`; works on afterwards.
   */
  async replay(options: ReplayOptions = {}): Promise<{ readonly ms: number }> {
    const { repeats, stream, signal } = readArguments(() => {
      const given = checkOptions(options, ['repeats', 'stream', 'signal'], 'options');
      return {
        repeats: checkInteger(given.repeats, 'repeats', 1, 1, 1_000_000),
        stream: checkStream(given.stream, this.#device),
        signal: checkSignal(given.signal),
      };
    });
    if (this.#disposed) throw new IntFlashError('ERR_DISPOSED', 'Expected a live CudaGraph, got one that was disposed');
    const ms = await withAbortFlag(this.#addon, signal, (flag) =>
      this.#addon.replay(this.#device, this.#handle, repeats, stream, flag),
    );
    return { ms };
  }

  /** Gives the graph's memory back, its outputs included; twice is a no-op. A replay under way completes. */
  dispose(): void {
    if (this.#disposed) return;
    this.#disposed = true;
    for (const output of this.#outputs) output.release();
    this.#addon.disposeGraph(this.#handle);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.dispose();
  }
}
