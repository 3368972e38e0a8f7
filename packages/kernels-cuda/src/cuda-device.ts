import {
  ATTENTION_OPTION_KEYS,
  type AttentionPlan,
  checkInteger,
  checkOptions,
  checkSignal,
  describe,
  type FloatType,
  IntFlashError,
  judgeAttention,
  judgeTensor,
  type RowStrides,
  type TensorLike,
} from '@int-flash/ops';
import { cudaStatus } from './cuda-status.js';
import { type CudaDataType, CudaTensor } from './cuda-tensor.js';
import {
  type BufferHandle,
  type DeviceHandle,
  loadNativeAddon,
  type NativeAddon,
  type NativeOperand,
} from './native-addon.js';
import { awaitNative, callNative } from './native-error.js';
import { geometryRequest, TYPE_NUMBERS } from './native-request.js';

export interface CudaAttentionInputs {
  readonly query: CudaTensor;
  readonly key: CudaTensor;
  readonly value: CudaTensor;
}

export interface CudaAttentionResult {
  readonly out: CudaTensor;
  readonly lse?: CudaTensor;
  /** Milliseconds of the quantizers, and of each of `repeats` further runs of the forward kernel and of the quantizers, by CUDA events. */
  readonly quantizeMs: number;
  readonly forwardMs: readonly number[];
  readonly quantizeRepeatMs: readonly number[];
}

/** Opens a GPU. @throws {IntFlashError} `ERR_UNSUPPORTED` with `reason` where there is none, `ERR_CUDA`. */
export function openCudaDevice(ordinal = 0): CudaDevice {
  const status = cudaStatus();
  const { addon } = loadNativeAddon();
  if (!addon || !status.available) {
    throw new IntFlashError('ERR_UNSUPPORTED', `Expected a usable NVIDIA GPU, got none: ${status.detail}`, {
      ...(status.reason && { reason: status.reason }),
      ...(status.hint && { hint: status.hint }),
    });
  }
  const devices = addon.probe().devices.length;
  checkInteger(ordinal, 'ordinal', 0, 0, devices - 1);
  return new CudaDevice(
    addon,
    callNative(() => addon.openDevice(ordinal)),
  );
}

/**
 * A GPU with a stream and a worker thread of its own. Calls are queued and run in order; promises settle when the GPU is done, and
 * neither the event loop nor libuv's thread pool waits for it.
 */
export class CudaDevice {
  readonly #addon: NativeAddon;
  readonly #handle: DeviceHandle;
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
    const facts = addon.deviceFacts(handle);
    this.name = facts.name;
    this.isa = `sm_${facts.major}${facts.minor}`;
    this.processors = facts.processors;
    this.totalBytes = facts.totalBytes;
  }

  /** Bytes of device memory that live tensors and running calls hold. */
  liveBytes(): number {
    return this.#addon.liveBytes(this.#handle);
  }

  /** Waits for everything queued, returns cached memory to the driver, and reads what is free. */
  memory(): Promise<{ free: number; total: number }> {
    return this.#call(() => this.#addon.memory(this.#handle));
  }

  /** Copies a tensor to the GPU. Its data is read before this returns. */
  async upload(tensor: TensorLike): Promise<CudaTensor> {
    const types = ['float32', 'float16', 'bfloat16', 'int8', 'uint8'] as const;
    const judged = judgeTensor(tensor, 'tensor', types);
    const buffer = await this.#call(() => this.#addon.upload(this.#handle, judged.data));
    return this.#wrap(buffer, judged.type as CudaDataType, judged.dims, judged.strides);
  }

  /**
   * Attention on tensors of this device; the answer stays here. Options as for `judgeAttention`, masks excepted, plus `signal` (honoured
   * between kernels) and `repeats`.
   *
   * @throws {IntFlashError} as `judgeAttention`, and `ERR_NONFINITE`, `ERR_OVERFLOW`, `ERR_OOM`, `ERR_DISPOSED`.
   */
  attention(inputs: CudaAttentionInputs, options: object = {}): Promise<CudaAttentionResult> {
    return this.#attend(inputs, options, false);
  }

  /** The same in float64, nothing quantized: what tests and benchmarks judge {@link CudaDevice.attention} by. Slow. */
  exactAttention(inputs: CudaAttentionInputs, options: object = {}): Promise<CudaAttentionResult> {
    return this.#attend(inputs, options, true);
  }

  /** Compares two float32 tensors on the device; `odd` counts elements of which one is infinite or NaN and the other is not the same. */
  async compare(actual: CudaTensor, expected: CudaTensor): Promise<{ relativeL2: number; worst: number; odd: number }> {
    const count = actual.dims.reduce((product, dim) => product * dim, 1);
    const [a, b] = [actual, expected].map((tensor) => tensor.nativeSource(this.#handle).buffer);
    const sums = await this.#call(() => this.#addon.compare(this.#handle, a!, b!, count));
    const relativeL2 = sums.difference === 0 ? 0 : Math.sqrt(sums.difference / sums.size);
    return { relativeL2, worst: sums.worst, odd: sums.odd };
  }

  /** Milliseconds of each of `repeats` copies of `bytes` from one place of the device to another: the yardstick of what memory bounds. */
  timeCopy(bytes: number, repeats: number): Promise<readonly number[]> {
    checkInteger(bytes, 'bytes', 0, 1, 2 ** 40);
    checkInteger(repeats, 'repeats', 0, 1, 10_000);
    return this.#call(() => this.#addon.timeCopy(this.#handle, bytes, repeats));
  }

  /** Waits for what is queued and stops the worker thread; twice is a no-op. Tensors must be disposed on their own. */
  dispose(): void {
    if (this.#disposed) return;
    this.#disposed = true;
    this.#addon.closeDevice(this.#handle);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (!this.#disposed) await this.memory(); // lets the queue drain without blocking the event loop
    this.dispose();
  }

  async #attend(inputs: CudaAttentionInputs, options: object, exact: boolean): Promise<CudaAttentionResult> {
    const {
      signal: givenSignal,
      repeats,
      ...rest
    } = checkOptions(options, [...ATTENTION_OPTION_KEYS, 'signal', 'repeats'], 'options');
    const signal = checkSignal(givenSignal);
    if (rest.attnMask !== undefined)
      throw new IntFlashError('ERR_UNSUPPORTED', 'Expected no attnMask on device tensors, got one');
    const plan = judgeShapes(inputs, rest);
    const operand = (tensor: CudaTensor): NativeOperand => ({
      type: TYPE_NUMBERS[tensor.type as FloatType],
      data: tensor.nativeSource(this.#handle),
      strides: rowStrides(tensor, rest),
    });
    const request = {
      ...geometryRequest(plan, exact ? 'float64' : plan.precision, plan.smoothK),
      query: operand(inputs.query),
      key: operand(inputs.key),
      value: operand(inputs.value),
      repeats: checkInteger(repeats, 'repeats', 0, 0, 10_000),
    };
    signal?.throwIfAborted();
    const flag = signal && this.#addon.abortFlag();
    const onAbort = () => this.#addon.raiseAbortFlag(flag!);
    signal?.addEventListener('abort', onAbort, { once: true });
    try {
      const answer = await this.#call(
        () => this.#addon.attention(this.#handle, { ...request, abortFlag: flag }),
        signal,
      );
      return {
        out: this.#wrap(answer.out!, 'float32', plan.outDims),
        ...(answer.lse && { lse: this.#wrap(answer.lse, 'float32', plan.lseDims) }),
        quantizeMs: answer.quantizeMs,
        forwardMs: answer.forwardMs,
        quantizeRepeatMs: answer.quantizeRepeatMs,
      };
    } finally {
      signal?.removeEventListener('abort', onAbort);
    }
  }

  #wrap(buffer: BufferHandle, type: CudaDataType, dims: readonly number[], strides?: readonly number[]): CudaTensor {
    return new CudaTensor({ addon: this.#addon, device: this.#handle, buffer, disposed: false }, type, dims, strides);
  }

  #call<T>(work: () => Promise<T>, signal?: AbortSignal): Promise<T> {
    if (this.#disposed)
      throw new IntFlashError('ERR_DISPOSED', 'Expected an open CudaDevice, got one that was disposed');
    return awaitNative(work, signal);
  }
}

/** The judge wants host memory; what it decides depends on the shapes alone, so it is shown each shape over a single row. */
function judgeShapes(inputs: CudaAttentionInputs, options: object): AttentionPlan {
  const given = checkOptions(inputs, ['query', 'key', 'value'], 'inputs');
  const shape = (tensor: unknown, name: string) => {
    if (!(tensor instanceof CudaTensor))
      throw new IntFlashError('ERR_ARG_TYPE', `Expected ${name} to be a CudaTensor, got ${describe(tensor)}`);
    const dim = tensor.dims[tensor.dims.length - 1] ?? 0;
    const strides = tensor.dims.map((_, axis) => (axis === tensor.dims.length - 1 ? 1 : 0));
    const data =
      tensor.type === 'float32'
        ? new Float32Array(dim)
        : tensor.type === 'int8'
          ? new Int8Array(dim)
          : new Uint16Array(dim);
    return { type: tensor.type, dims: tensor.dims, strides, data };
  };
  return judgeAttention(
    { query: shape(given.query, 'query'), key: shape(given.key, 'key'), value: shape(given.value, 'value') },
    options,
  );
}

function rowStrides({ dims, strides }: CudaTensor, options: Record<string, unknown>): RowStrides {
  const rank = dims.length;
  if (dims[rank - 1]! > 1 && strides[rank - 1] !== 1) {
    throw new IntFlashError(
      'ERR_UNSUPPORTED',
      `Expected the head dimension to be contiguous, got stride ${strides[rank - 1]}`,
    );
  }
  const [inner, outer] = [strides[rank - 2]!, strides[rank - 3]!];
  const batch = rank === 4 ? strides[0]! : 0;
  return options.tensorLayout === 'NHD' ? { batch, head: inner, token: outer } : { batch, head: outer, token: inner };
}
