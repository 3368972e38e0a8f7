import { contiguousStrides, IntFlashError, type Tensor, type TensorData } from '@int-flash/ops';
import type { BufferHandle, DeviceHandle, NativeAddon, NativeSource } from './native-addon.js';
import { awaitNative } from './native-error.js';

/** Element types that device tensors hold. */
export type CudaDataType = 'float32' | 'float16' | 'bfloat16' | 'int8' | 'uint8';

const ELEMENT_BYTES: Record<CudaDataType, number> = { float32: 4, float16: 2, bfloat16: 2, int8: 1, uint8: 1 };

export interface DeviceMemory {
  readonly addon: NativeAddon;
  readonly device: DeviceHandle;
  readonly buffer: BufferHandle;
  disposed: boolean;
}

/**
 * A tensor in GPU memory. Its memory is given back by `dispose()`, at the end of an `await using` block, or, failing both, when the
 * garbage collector finds it. Views share their parent's memory and end with it.
 */
export class CudaTensor {
  readonly location = 'cuda';
  readonly #memory: DeviceMemory;
  readonly #ownsMemory: boolean;
  readonly #elementOffset: number;

  /** @internal Made by a {@link CudaDevice}. */
  constructor(
    memory: DeviceMemory,
    readonly type: CudaDataType,
    readonly dims: readonly number[],
    /** Elements between neighbours along each axis. */
    readonly strides: readonly number[] = contiguousStrides(dims),
    elementOffset = 0,
    ownsMemory = true,
  ) {
    this.#memory = memory;
    this.#elementOffset = elementOffset;
    this.#ownsMemory = ownsMemory;
  }

  get disposed(): boolean {
    return this.#memory.disposed;
  }

  /**
   * The same memory seen with other dims.
   *
   * @param options.elementOffset counted from this tensor's first element; 0 when absent.
   * @param options.strides row-major over `dims` when absent. That every index lies inside the memory is checked where it is used.
   */
  view(dims: readonly number[], options: { elementOffset?: number; strides?: readonly number[] } = {}): CudaTensor {
    this.#expectLive();
    const offset = this.#elementOffset + (options.elementOffset ?? 0);
    if (!Number.isInteger(offset) || offset < 0) {
      throw new IntFlashError(
        'ERR_ARG_RANGE',
        `Expected elementOffset to be a non-negative integer, got ${options.elementOffset}`,
      );
    }
    return new CudaTensor(this.#memory, this.type, dims, options.strides ?? contiguousStrides(dims), offset, false);
  }

  /** Copies a contiguous tensor to the host, after everything queued before. */
  async download(): Promise<Tensor> {
    this.#expectLive();
    const contiguous = contiguousStrides(this.dims);
    if (this.strides.some((stride, axis) => this.dims[axis]! > 1 && stride !== contiguous[axis])) {
      throw new IntFlashError(
        'ERR_UNSUPPORTED',
        `Expected a contiguous tensor to download, got strides [${this.strides.join(', ')}]`,
      );
    }
    const count = this.dims.reduce((product, dim) => product * dim, 1);
    const bytes = new Uint8Array(count * ELEMENT_BYTES[this.type]);
    const { addon, device, buffer } = this.#memory;
    await awaitNative(() => addon.download(device, buffer, this.#elementOffset * ELEMENT_BYTES[this.type], bytes));
    const { strides, dims, type } = this;
    return { type, dims, strides, data: typedView(type, bytes) };
  }

  /** Gives the memory back; twice is a no-op. A view leaves it to its parent. */
  dispose(): void {
    if (!this.#ownsMemory || this.#memory.disposed) return;
    this.#memory.disposed = true;
    this.#memory.addon.disposeBuffer(this.#memory.buffer);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.dispose();
  }

  /** @internal Where the addon finds it. */
  nativeSource(device: DeviceHandle): NativeSource & { readonly buffer: BufferHandle } {
    this.#expectLive();
    if (this.#memory.device !== device) {
      throw new IntFlashError('ERR_ARG_TYPE', 'Expected tensors of this CudaDevice, got one of another');
    }
    return { buffer: this.#memory.buffer, byteOffset: this.#elementOffset * ELEMENT_BYTES[this.type] };
  }

  #expectLive(): void {
    if (this.#memory.disposed)
      throw new IntFlashError('ERR_DISPOSED', 'Expected a live tensor, got one that was disposed');
  }
}

function typedView(type: CudaDataType, bytes: Uint8Array): TensorData {
  if (type === 'float32') return new Float32Array(bytes.buffer);
  if (type === 'int8') return new Int8Array(bytes.buffer);
  return type === 'uint8' ? bytes : new Uint16Array(bytes.buffer);
}
