import {
  checkBoolean,
  checkChoice,
  checkInteger,
  checkOptions,
  describe,
  IntFlashError,
  judgeTensor,
  readArguments,
  type TensorLike,
} from '@int-flash/ops';
import { CudaGraph } from './cuda-graph.js';
import { CudaRecorder } from './cuda-recorder.js';
import { cudaStatus, unusableGpu } from './cuda-status.js';
import { CudaStream, checkStream } from './cuda-stream.js';
import { CudaTensor } from './cuda-tensor.js';
import {
  attendCodesOnDevice,
  attendOnDevice,
  type CudaAttentionInputs,
  type CudaAttentionOptions,
  type CudaAttentionResult,
  type CudaHalfQuantizedInputs,
  type CudaQuantizedInputs,
  type CudaQuantizedOptions,
} from './device-attention.js';
import type { DeviceContext } from './device-context.js';
import { type Int4Options, packOnDevice, unpackOnDevice } from './device-int4.js';
import { type CudaQuantizedTensor, type QuantizeOptions, quantizeOnDevice } from './device-quantize.js';
import { type BufferHandle, type DeviceHandle, loadNativeAddon, type NativeAddon } from './native-addon.js';
import type { CacheTimingRequest } from './native-decoder.js';
import { awaitNative, callNative } from './native-error.js';
import { BASELINES, type Baseline } from './native-request.js';
import { type PinnedArrays, PinnedBuffer, pinnedSource } from './pinned-buffer.js';
import { bytesOf, type CudaDataType, judgeCounts, MAX_BYTES } from './strided-memory.js';

const DATA_TYPES = ['float32', 'float16', 'bfloat16', 'int8', 'uint8', 'bool'] as const;
const TIMING_KEYS = ['sequences', 'length', 'heads', 'kvHeads', 'headDim', 'int4', 'runs', 'repeats'] as const;

/**
 * Opens a GPU.
 *
 * @param ordinal as CUDA counts them.
 * @throws {IntFlashError} `ERR_UNSUPPORTED` with `reason` where there is none, `ERR_DEVICE_LOST`, `ERR_CUDA`.
 */
export function openCudaDevice(ordinal = 0): CudaDevice {
  const status = cudaStatus(ordinal);
  const { addon } = loadNativeAddon();
  if (!addon || !status.available) throw unusableGpu(status);
  return new CudaDevice(
    addon,
    callNative(() => addon.openDevice(ordinal)),
  );
}

/**
 * A GPU with a stream and a worker thread of its own. Calls are queued and run in order, unless they name another `stream`; promises
 * settle when the GPU is done, and neither the event loop nor libuv's thread pool waits for it.
 */
export class CudaDevice {
  readonly #addon: NativeAddon;
  readonly #handle: DeviceHandle;
  readonly #context: DeviceContext;
  readonly #streams = new Set<CudaStream>();
  #disposed = false;
  readonly name: string;
  /** `sm_90` for compute capability 9.0. */
  readonly isa: string;
  readonly processors: number;
  readonly totalBytes: number;

  /** @internal Use {@link openCudaDevice}. */
  constructor(addon: NativeAddon, handle: DeviceHandle) {
    this.#addon = addon;
    this.#handle = handle;
    this.#context = { addon, device: handle, expectOpen: () => this.#expectOpen() };
    const facts = addon.deviceFacts(handle);
    this.name = facts.name;
    this.isa = `sm_${facts.major}${facts.minor}`;
    this.processors = facts.processors;
    this.totalBytes = facts.totalBytes;
  }

  /** Bytes of device memory that live tensors, graphs and running calls hold: 0 once all are disposed. */
  liveBytes(): number {
    return this.#addon.liveBytes(this.#handle);
  }

  /** Bytes of page-locked host memory that live {@link PinnedBuffer}s hold. */
  pinnedBytes(): number {
    return this.#addon.pinnedBytes(this.#handle);
  }

  /** Waits for everything queued, returns cached memory to the driver, and reads what is free. */
  memory(): Promise<{ free: number; total: number }> {
    return this.#call(() => this.#addon.memory(this.#handle));
  }

  /** Returns the memory that freed tensors leave cached to the driver. */
  async trim(): Promise<void> {
    await this.memory();
  }

  /** Copies a tensor to the GPU. Its data is read before this returns, unless it is a {@link PinnedBuffer}'s, which the GPU reads itself. */
  async upload(tensor: TensorLike, options: { stream?: CudaStream } = {}): Promise<CudaTensor> {
    this.#expectOpen();
    const { stream, judged } = readArguments(() => ({
      stream: checkStream(checkOptions(options, ['stream'], 'options').stream, this.#handle),
      judged: judgeTensor(tensor, 'tensor', DATA_TYPES),
    }));
    const { type, dims, strides, data } = judged;
    const source = pinnedSource(data, this.#handle) ?? data;
    const buffer = await awaitNative(() => this.#addon.upload(this.#handle, source, stream));
    return this.#wrap(buffer, type as CudaDataType, dims, { strides, elements: data.length });
  }

  /**
   * A tensor whose numbers are not set.
   *
   * @throws {IntFlashError} `ERR_OVERFLOW` for more than 2^46 bytes; `ERR_OOM`.
   */
  async empty(type: CudaDataType, dims: readonly number[]): Promise<CudaTensor> {
    this.#expectOpen();
    const [judgedType, judgedDims] = readArguments(() => [checkDataType(type), judgeCounts(dims, 'dims')] as const);
    const bytes = bytesOf(
      judgedType,
      judgedDims.reduce((product, dim) => product * dim, 1),
    );
    if (!(bytes <= MAX_BYTES))
      throw new IntFlashError('ERR_OVERFLOW', `Expected at most 2^46 bytes, got dims [${judgedDims.join(', ')}]`);
    const buffer = await awaitNative(() => this.#addon.allocate(this.#handle, bytes));
    return this.#wrap(buffer, judgedType, judgedDims, {});
  }

  /** Page-locked host memory of `length` elements, for copies without a detour. */
  async pinned<T extends keyof PinnedArrays>(type: T, length: number): Promise<PinnedBuffer<T>> {
    this.#expectOpen();
    const bytes = readArguments(() =>
      bytesOf(checkDataType(type), checkInteger(length ?? null, 'length', 0, 0, 2 ** 32)),
    );
    const memory = await awaitNative(() => this.#addon.allocatePinned(this.#handle, bytes));
    return new PinnedBuffer(this.#addon, this.#handle, memory, type);
  }

  /** One more stream, for work beside the device's own. The device disposes of it with itself. */
  createStream(): CudaStream {
    this.#expectOpen();
    const stream = new CudaStream(
      this.#addon,
      this.#handle,
      callNative(() => this.#addon.openStream(this.#handle)),
    );
    for (const known of this.#streams) if (known.disposed) this.#streams.delete(known);
    this.#streams.add(stream);
    return stream;
  }

  /**
   * Attention on tensors of this device; the answer stays here. Options as for `judgeAttention`, plus `stream`, `signal` (honoured
   * between kernels) and `repeats`.
   *
   * @throws {IntFlashError} as `judgeAttention`, and `ERR_NONFINITE`, `ERR_OVERFLOW`, `ERR_OOM`, `ERR_DISPOSED`.
   */
  attention(inputs: CudaAttentionInputs, options: CudaAttentionOptions = {}): Promise<CudaAttentionResult> {
    return attendOnDevice(this.#context, inputs, options);
  }

  /** The same in float64, nothing quantized: what tests and benchmarks judge {@link CudaDevice.attention} by. Slow. */
  exactAttention(inputs: CudaAttentionInputs, options: CudaAttentionOptions = {}): Promise<CudaAttentionResult> {
    return attendOnDevice(this.#context, inputs, options, 'float64');
  }

  /**
   * Attention as others compute it, in the same code, for comparisons: operands rounded to float16, bfloat16 or FP8 (e4m3, one scale a
   * head and operand as FlashAttention-3's; compute capability 8.9), or `flash-d`, float16 with the division hidden in a sigmoid.
   * Takes every option of {@link CudaDevice.attention}, softcap and attnMask among them; `precision` and `smoothK` change nothing. `quantizeMs` is the time
   * of rounding.
   *
   * @throws {IntFlashError} `ERR_UNSUPPORTED` for `fp8` where the code that runs is compiled for less than 8.9; `ERR_OVERFLOW` for numbers beyond 65504
   *   in `fp16` and `flash-d`; `ERR_NONFINITE`.
   */
  async baselineAttention(
    inputs: CudaAttentionInputs,
    baseline: Baseline,
    options: CudaAttentionOptions = {},
  ): Promise<CudaAttentionResult> {
    const kind = readArguments(() => checkChoice(baseline, 'baseline', BASELINES, 'fp16'));
    return attendOnDevice(this.#context, inputs, options, kind);
  }

  /**
   * Attention on INT8 codes and scales of this device, shaped as `judgeQuantizedAttention` says; INT4 codes, a byte each, are such codes. With
   * `precision: 'half-int8'` `v` is a tensor of floats and has no scales.
   */
  quantizedAttention(inputs: CudaQuantizedInputs, options?: CudaQuantizedOptions): Promise<CudaAttentionResult>;
  quantizedAttention(
    inputs: CudaHalfQuantizedInputs,
    options: CudaQuantizedOptions & { readonly precision: 'half-int8' },
  ): Promise<CudaAttentionResult>;
  quantizedAttention(
    inputs: CudaQuantizedInputs | CudaHalfQuantizedInputs,
    options: CudaQuantizedOptions = {},
  ): Promise<CudaAttentionResult> {
    return attendCodesOnDevice(this.#context, inputs, options);
  }

  /**
   * Codes and scales of a float tensor [.., tokens, dim] of two to four axes (dim a multiple of 8 up to 256, its last axis contiguous), left on the
   * device: one scale a token, a channel or a tensor, after subtracting the channels' means where `smoothK` asks for it. The bits of `@int-flash/quant`.
   *
   * @throws {IntFlashError} `ERR_UNSUPPORTED` for other shapes and for options that do not go together; `ERR_NONFINITE`; `ERR_OVERFLOW` for more than
   *   2^38 rows (2^46 bytes of codes, 256 a row), and where a number minus its channel's mean is beyond float32 (which quant refuses as `ERR_NONFINITE`).
   */
  quantize(tensor: CudaTensor, options: QuantizeOptions = {}): Promise<CudaQuantizedTensor> {
    return quantizeOnDevice(this.#context, tensor, options);
  }

  /**
   * INT4 codes [.., tokens, dim] of a byte each, as `quantize` with `bits: 4` makes them, to [.., tokens, dim / 2] uint8: two a byte, low nibble first.
   *
   * @throws {IntFlashError} `ERR_ARG_RANGE` where a code is not in [-8, 7]; `ERR_UNSUPPORTED` for shapes that `quantize` does not take; `ERR_OVERFLOW`
   *   for more than 2^38 rows (2^46 bytes, 256 a row).
   */
  packInt4(codes: CudaTensor, options: Int4Options = {}): Promise<CudaTensor> {
    return packOnDevice(this.#context, codes, options);
  }

  /**
   * What {@link CudaDevice.packInt4} packed, [.., tokens, dim / 2] uint8, a byte each again.
   *
   * @throws {IntFlashError} `ERR_UNSUPPORTED`, `ERR_OVERFLOW` as {@link CudaDevice.packInt4}.
   */
  unpackInt4(packed: CudaTensor, options: Int4Options = {}): Promise<CudaTensor> {
    return unpackOnDevice(this.#context, packed, options);
  }

  /**
   * Records what `record` calls on its recorder into a graph, to be replayed any number of times.
   *
   * @throws {IntFlashError} what the recorded operations throw, and whatever `record` does; nothing is left behind then.
   */
  async capture<T>(record: (recorder: CudaRecorder) => T | Promise<T>): Promise<CudaGraph<T>> {
    this.#expectOpen();
    readArguments(() => {
      if (typeof record !== 'function')
        throw new IntFlashError('ERR_ARG_TYPE', `Expected record to be a function, got ${describe(record)}`);
    });
    const recording = await awaitNative(() => this.#addon.beginRecording(this.#handle));
    const recorder = new CudaRecorder(this.#addon, this.#handle, recording, () => this.#expectOpen());
    try {
      const result = await record(recorder);
      recorder.close();
      const graph = await this.#call(() => this.#addon.finishRecording(this.#handle, recording));
      return new CudaGraph(this.#addon, this.#handle, graph, recorder.outputs, result);
    } catch (error) {
      recorder.abandon();
      this.#addon.disposeRecording(recording);
      throw error;
    }
  }

  /**
   * Compares two contiguous float32 tensors of one size on the device; `odd` counts elements of which one is infinite or NaN and the other is not
   * the same.
   */
  async compare(actual: CudaTensor, expected: CudaTensor): Promise<{ relativeL2: number; worst: number; odd: number }> {
    const places = readArguments(() =>
      [actual, expected].map((tensor) => {
        if (!(tensor instanceof CudaTensor) || tensor.type !== 'float32')
          throw new IntFlashError('ERR_ARG_TYPE', `Expected two float32 CudaTensors, got ${describe(tensor)}`);
        if (!tensor.isContiguous || tensor.size !== actual.size)
          throw new IntFlashError(
            'ERR_SHAPE',
            `Expected two contiguous tensors of ${actual.size} elements, got dims [${tensor.dims.join(', ')}] and strides [${tensor.strides.join(', ')}]`,
          );
        return tensor.nativeSource(this.#handle);
      }),
    );
    const [a, b] = [places[0]!, places[1]!];
    const sums = await this.#call(() => this.#addon.compare(this.#handle, a, b, actual.size));
    const relativeL2 = sums.difference === 0 ? 0 : Math.sqrt(sums.difference / sums.size);
    return { relativeL2, worst: sums.worst, odd: sums.odd };
  }

  /** Milliseconds of each of `repeats` copies of `bytes` from one place of the device to another: the yardstick of what memory bounds. */
  async timeCopy(bytes: number, repeats: number): Promise<readonly number[]> {
    readArguments(() => {
      checkInteger(bytes ?? null, 'bytes', 1, 1, 2 ** 40);
      checkInteger(repeats ?? null, 'repeats', 1, 1, 10_000);
    });
    return this.#call(() => this.#addon.timeCopy(this.#handle, bytes, repeats));
  }

  /** Milliseconds of attention against KV caches in memory, a token a sequence, of each repeat: for benchmarks. */
  async timeCacheAttention(request: CacheTimingRequest): Promise<readonly number[]> {
    readArguments(() => {
      const { sequences, length, heads, kvHeads, headDim, int4, runs, repeats } = checkOptions(
        request,
        TIMING_KEYS,
        'request',
      );
      checkBoolean(int4, 'int4', false);
      checkBoolean(runs, 'runs', false);
      for (const [name, value, most] of [
        ['sequences', sequences, 1024],
        ['length', length, 2 ** 24],
        ['heads', heads, 65535],
        ['kvHeads', kvHeads, 65535],
        ['headDim', headDim, 256],
        ['repeats', repeats, 10_000],
      ] as const)
        checkInteger(value ?? null, name, 1, 1, most);
    });
    return this.#call(() => this.#addon.timeCacheAttention(this.#handle, request));
  }

  /** Waits for what is queued, blocking, and stops the worker threads; twice is a no-op. Tensors must be disposed on their own. */
  dispose(): void {
    if (this.#disposed) return;
    this.#disposed = true;
    for (const stream of this.#streams) stream.dispose();
    this.#addon.closeDevice(this.#handle);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    // Lets the queues drain without blocking the event loop. A device that is lost has nothing to wait for, and whoever worked on it has heard.
    if (!this.#disposed) {
      const open = [...this.#streams].filter(({ disposed }) => !disposed);
      await Promise.allSettled([this.memory(), ...open.map((stream) => stream.synchronize())]);
    }
    this.dispose();
  }

  #wrap(
    buffer: BufferHandle,
    type: CudaDataType,
    dims: readonly number[],
    shape: { strides?: readonly number[]; elements?: number },
  ): CudaTensor {
    return new CudaTensor({ addon: this.#addon, device: this.#handle, buffer, disposed: false }, type, dims, shape);
  }

  async #call<T>(work: () => Promise<T>): Promise<T> {
    this.#expectOpen();
    return awaitNative(work);
  }

  #expectOpen(): void {
    if (this.#disposed)
      throw new IntFlashError('ERR_DISPOSED', 'Expected an open CudaDevice, got one that was disposed');
  }
}

function checkDataType(type: unknown): CudaDataType {
  if (typeof type !== 'string')
    throw new IntFlashError('ERR_ARG_TYPE', `Expected type to be a string, got ${describe(type)}`);
  return checkChoice(type, 'type', DATA_TYPES, 'float32');
}
