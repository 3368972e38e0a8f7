import type { Tensor, TensorData } from '@int-flash/ops';
import { checkInteger, checkOptions, contiguousStrides, describe, IntFlashError, judgeTensor } from '@int-flash/ops';
import { type CudaStream, checkStream } from './cuda-stream.js';
import type { BufferHandle, DeviceHandle, NativeAddon, NativeBufferSource } from './native-addon.js';
import { awaitNative } from './native-error.js';
import { pinnedSource, typedView } from './pinned-buffer.js';

/** Element types that device tensors hold. */
export type CudaDataType = 'float32' | 'float16' | 'bfloat16' | 'int8' | 'uint8' | 'bool';

const ELEMENT_BYTES: Record<CudaDataType, number> = {
  float32: 4,
  float16: 2,
  bfloat16: 2,
  int8: 1,
  uint8: 1,
  bool: 1,
};

export function bytesOf(type: CudaDataType, elements: number): number {
  return elements * ELEMENT_BYTES[type];
}

export interface DeviceMemory {
  readonly addon: NativeAddon;
  readonly device: DeviceHandle;
  readonly buffer: BufferHandle;
  disposed: boolean;
}

interface Shape {
  readonly strides?: readonly number[];
  readonly elementOffset?: number;
  /** Who gives the memory back: the tensor itself, the tensor it is a view of, or a graph. */
  readonly owner?: 'tensor' | 'parent' | 'graph';
  /** Elements of the memory behind it; those of a contiguous tensor when absent. */
  readonly elements?: number;
}

/**
 * A tensor in GPU memory. Its memory is given back by `dispose()`, at the end of an `await using` block, or, failing both, when the
 * garbage collector finds it. Views share their parent's memory and end with it.
 */
export class CudaTensor {
  readonly location = 'cuda';
  readonly #memory: DeviceMemory;
  readonly #owner: 'tensor' | 'parent' | 'graph';
  readonly #elementOffset: number;
  readonly #elements: number;
  readonly dims: readonly number[];
  /** Elements between neighbours along each axis. */
  readonly strides: readonly number[];

  /** @internal Made by a CudaDevice. */
  constructor(
    memory: DeviceMemory,
    readonly type: CudaDataType,
    dims: readonly number[],
    { strides = contiguousStrides(dims), elementOffset = 0, owner = 'tensor', elements }: Shape = {},
  ) {
    this.#memory = memory;
    this.dims = dims;
    this.strides = strides;
    this.#elementOffset = elementOffset;
    this.#owner = owner;
    this.#elements = elements ?? reach(dims, strides);
  }

  get disposed(): boolean {
    return this.#memory.disposed;
  }

  /** Elements that its dims make. */
  get size(): number {
    return this.dims.reduce((product, dim) => product * dim, 1);
  }

  /**
   * The same memory seen with other dims.
   *
   * @param options.elementOffset counted from this tensor's first element; 0 when absent.
   * @param options.strides row-major over `dims` when absent.
   * @throws {IntFlashError} `ERR_SHAPE` where an index would lie outside the memory.
   */
  view(dims: readonly number[], options: { elementOffset?: number; strides?: readonly number[] } = {}): CudaTensor {
    this.#expectLive();
    const given = checkOptions(options, ['elementOffset', 'strides'], 'options');
    const judgedDims = judgeCounts(dims, 'dims');
    const strides = given.strides === undefined ? contiguousStrides(judgedDims) : judgeCounts(given.strides, 'strides');
    if (strides.length !== judgedDims.length)
      throw new IntFlashError(
        'ERR_SHAPE',
        `Expected strides to have ${judgedDims.length} entries like dims, got ${strides.length}`,
      );
    const offset =
      this.#elementOffset +
      checkInteger(given.elementOffset, 'elementOffset', 0, 0, Number.MAX_SAFE_INTEGER - this.#elementOffset);
    return this.#view(judgedDims, strides, offset);
  }

  /** Elements `start` to `end`, exclusive, along `axis`; to its end when absent. */
  slice(axis: number, start: number, end?: number): CudaTensor {
    this.#expectLive();
    const along = this.#checkAxis(axis, 'axis');
    const from = checkInteger(start, 'start', 0, 0, this.dims[along]!);
    const to = checkInteger(end, 'end', this.dims[along]!, from, this.dims[along]!);
    const dims = this.dims.map((dim, i) => (i === along ? to - from : dim));
    return this.#view(dims, this.strides, this.#elementOffset + from * this.strides[along]!);
  }

  /** Other dims of as many elements. The tensor must be contiguous. */
  reshape(dims: readonly number[]): CudaTensor {
    this.#expectLive();
    const judged = judgeCounts(dims, 'dims');
    const size = judged.reduce((product, dim) => product * dim, 1);
    if (size !== this.size)
      throw new IntFlashError(
        'ERR_SHAPE',
        `Expected dims of ${this.size} elements, got [${judged.join(', ')}], which has ${size}`,
      );
    if (!this.#isContiguous())
      throw new IntFlashError(
        'ERR_UNSUPPORTED',
        `Expected a contiguous tensor to reshape, got strides [${this.strides.join(', ')}]`,
        { hint: 'Say the strides with view().' },
      );
    return this.#view(judged, contiguousStrides(judged), this.#elementOffset);
  }

  /** Two axes exchanged. */
  transpose(axisA: number, axisB: number): CudaTensor {
    this.#expectLive();
    const [a, b] = [this.#checkAxis(axisA, 'axisA'), this.#checkAxis(axisB, 'axisB')];
    const swapped = (values: readonly number[]) =>
      values.map((value, axis) => (axis === a ? values[b]! : axis === b ? values[a]! : value));
    return this.#view(swapped(this.dims), swapped(this.strides), this.#elementOffset);
  }

  /**
   * Copies the tensor to the host, row-major, after everything queued before.
   *
   * @param options.into view of a `PinnedBuffer` of this device, of the tensor's type and size: the GPU writes there directly.
   */
  async download(options: { into?: TensorData; stream?: CudaStream } = {}): Promise<Tensor> {
    this.#expectLive();
    const given = checkOptions(options, ['into', 'stream'], 'options');
    const { device } = this.#memory;
    const stream = checkStream(given.stream, device);
    const contiguous = this.#isContiguous();
    const { type, dims } = this;
    const strides = contiguousStrides(dims);
    if (given.into !== undefined) {
      if (!contiguous)
        throw new IntFlashError(
          'ERR_UNSUPPORTED',
          `Expected a contiguous tensor to download in place, got strides [${this.strides.join(', ')}]`,
        );
      const { data } = judgeTensor({ type, dims, data: given.into }, 'into');
      const target = pinnedSource(data, device);
      if (!target)
        throw new IntFlashError(
          'ERR_ARG_TYPE',
          'Expected into to view a PinnedBuffer of this CudaDevice, got other memory',
        );
      await this.#download(target, stream);
      return { type, dims, strides, data };
    }
    const bytes = new Uint8Array(bytesOf(type, contiguous ? this.size : reach(dims, this.strides)));
    await this.#download(bytes, stream);
    const read = typedView(type, bytes.buffer);
    return { type, dims, strides, data: contiguous ? read : gather(read, dims, this.strides) };
  }

  /**
   * Replaces the numbers of a contiguous tensor, after everything queued before.
   *
   * @param source host memory of the tensor's type and size (read before this returns, unless it is a `PinnedBuffer`'s), or a contiguous
   *   tensor of the same device, type and size.
   */
  async write(source: TensorData | CudaTensor, options: { stream?: CudaStream } = {}): Promise<void> {
    this.#expectLive();
    const { addon, device, buffer } = this.#memory;
    const stream = checkStream(checkOptions(options, ['stream'], 'options').stream, device);
    if (!this.#isContiguous())
      throw new IntFlashError(
        'ERR_UNSUPPORTED',
        `Expected a contiguous tensor to write to, got strides [${this.strides.join(', ')}]`,
      );
    const at = bytesOf(this.type, this.#elementOffset);
    if (!(source instanceof CudaTensor)) {
      const { data } = judgeTensor({ type: this.type, dims: this.dims, data: source }, 'source');
      const from = pinnedSource(data, device) ?? data;
      return awaitNative(() => addon.write(device, buffer, at, from, stream));
    }
    if (source.type !== this.type || source.size !== this.size || !source.#isContiguous())
      throw new IntFlashError(
        'ERR_SHAPE',
        `Expected a contiguous ${this.type} tensor of ${this.size} elements, got ${source.type} [${source.dims.join(', ')}]`,
      );
    const from = source.nativeSource(device);
    const bytes = bytesOf(this.type, this.size);
    return awaitNative(() => addon.copy(device, from.buffer, from.byteOffset, buffer, at, bytes, stream));
  }

  /** Gives the memory back; twice is a no-op. A view leaves it to its parent, and a graph's output to the graph. */
  dispose(): void {
    if (this.#owner === 'tensor') this.release();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.dispose();
  }

  /** @internal What the owner does, whoever it is. */
  release(): void {
    if (this.#memory.disposed) return;
    this.#memory.disposed = true;
    this.#memory.addon.disposeBuffer(this.#memory.buffer);
  }

  /** @internal Where the addon finds it. */
  nativeSource(device: DeviceHandle): NativeBufferSource {
    this.#expectLive();
    if (this.#memory.device !== device) {
      throw new IntFlashError('ERR_ARG_TYPE', 'Expected tensors of this CudaDevice, got one of another');
    }
    return { buffer: this.#memory.buffer, byteOffset: bytesOf(this.type, this.#elementOffset) };
  }

  #download(target: Parameters<NativeAddon['download']>[3], stream: Parameters<NativeAddon['download']>[4]) {
    const { addon, device, buffer } = this.#memory;
    const at = bytesOf(this.type, this.#elementOffset);
    return awaitNative(() => addon.download(device, buffer, at, target, stream));
  }

  #view(dims: readonly number[], strides: readonly number[], elementOffset: number): CudaTensor {
    const end = elementOffset + reach(dims, strides);
    if (!(end <= this.#elements))
      throw new IntFlashError(
        'ERR_SHAPE',
        `Expected the view to stay inside ${this.#elements} elements, got one that reaches element ${end - 1}`,
      );
    return new CudaTensor(this.#memory, this.type, dims, {
      strides,
      elementOffset,
      owner: 'parent',
      elements: this.#elements,
    });
  }

  #isContiguous(): boolean {
    const contiguous = contiguousStrides(this.dims);
    return (
      this.size === 0 || this.strides.every((stride, axis) => this.dims[axis] === 1 || stride === contiguous[axis])
    );
  }

  #checkAxis(value: unknown, name: string): number {
    if (typeof value !== 'number')
      throw new IntFlashError('ERR_ARG_TYPE', `Expected ${name} to be a number, got ${describe(value)}`);
    return checkInteger(value, name, 0, 0, this.dims.length - 1);
  }

  #expectLive(): void {
    if (this.#memory.disposed)
      throw new IntFlashError('ERR_DISPOSED', 'Expected a live tensor, got one that was disposed');
  }
}

/** One past the last element that any index touches, counted from the first. */
function reach(dims: readonly number[], strides: readonly number[]): number {
  if (dims.includes(0)) return 0;
  return dims.reduce((sum, dim, axis) => sum + (dim - 1) * strides[axis]!, 1);
}

export function judgeCounts(value: unknown, name: string): number[] {
  if (!Array.isArray(value) || value.length > 8)
    throw new IntFlashError(
      'ERR_ARG_TYPE',
      `Expected ${name} to be an array of up to 8 integers, got ${describe(value)}`,
    );
  return Array.from(value, (entry: unknown, axis) => {
    if (typeof entry !== 'number')
      throw new IntFlashError('ERR_ARG_TYPE', `Expected ${name}[${axis}] to be a number, got ${describe(entry)}`);
    return checkInteger(entry, `${name}[${axis}]`, 0, 0, Number.MAX_SAFE_INTEGER);
  });
}

/** A strided tensor's elements in row-major order. */
function gather(from: TensorData, dims: readonly number[], strides: readonly number[]): TensorData {
  const size = dims.reduce((product, dim) => product * dim, 1);
  const result = new (from.constructor as new (length: number) => TensorData)(size);
  const index = new Array<number>(dims.length).fill(0);
  let at = 0;
  for (let i = 0; i < size; i++) {
    result[i] = from[at]!;
    for (let axis = dims.length - 1; axis >= 0; axis--) {
      at += strides[axis]!;
      if (++index[axis]! < dims[axis]!) break;
      at -= strides[axis]! * dims[axis]!;
      index[axis] = 0;
    }
  }
  return result;
}
