import type { Tensor, TensorData } from '@int-flash/ops';
import {
  checkInteger,
  checkOptions,
  contiguousStrides,
  hostArray,
  IntFlashError,
  judgeTensor,
  readArguments,
} from '@int-flash/ops';
import { type CudaStream, checkStream } from './cuda-stream.js';
import type { BufferHandle, DeviceHandle, NativeAddon, NativeBufferSource, NativeLayout } from './native-addon.js';
import { awaitNative } from './native-error.js';
import { pinnedSource, typedView } from './pinned-buffer.js';
import { bytesOf, type CudaDataType, judgeCounts, reach } from './strided-memory.js';

export interface DeviceMemory {
  readonly addon: NativeAddon;
  readonly device: DeviceHandle;
  readonly buffer: BufferHandle;
  disposed: boolean;
}

const IN_PARTS = 'Download it in parts (slice), or into a PinnedBuffer.';

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

  /** Whether its elements lie one behind the other, row-major. */
  get isContiguous(): boolean {
    const contiguous = contiguousStrides(this.dims);
    return (
      this.size === 0 || this.strides.every((stride, axis) => this.dims[axis] === 1 || stride === contiguous[axis])
    );
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
    return readArguments(() => {
      const given = checkOptions(options, ['elementOffset', 'strides'], 'options');
      const judged = judgeCounts(dims, 'dims');
      const strides = given.strides === undefined ? contiguousStrides(judged) : judgeCounts(given.strides, 'strides');
      if (strides.length !== judged.length)
        throw new IntFlashError(
          'ERR_SHAPE',
          `Expected strides to have ${judged.length} entries like dims, got ${strides.length}`,
        );
      const most = Number.MAX_SAFE_INTEGER - this.#elementOffset;
      const offset = this.#elementOffset + checkInteger(given.elementOffset, 'elementOffset', 0, 0, most);
      return this.#view(judged, strides, offset);
    });
  }

  /** Elements `start` to `end`, exclusive, along `axis`; to its end when absent. */
  slice(axis: number, start: number, end?: number): CudaTensor {
    this.#expectLive();
    const along = this.#checkAxis(axis, 'axis');
    const from = readArguments(() => checkInteger(start ?? null, 'start', 0, 0, this.dims[along]!));
    const to = readArguments(() => checkInteger(end, 'end', this.dims[along]!, from, this.dims[along]!));
    const dims = this.dims.map((dim, i) => (i === along ? to - from : dim));
    // What is empty lies nowhere: its place could be behind the memory's end.
    const moved = dims.includes(0) ? 0 : from * this.strides[along]!;
    return this.#view(dims, this.strides, this.#elementOffset + moved);
  }

  /** Other dims of as many elements. The tensor must be contiguous. */
  reshape(dims: readonly number[]): CudaTensor {
    this.#expectLive();
    const judged = readArguments(() => judgeCounts(dims, 'dims'));
    const size = judged.reduce((product, dim) => product * dim, 1);
    if (size !== this.size)
      throw new IntFlashError(
        'ERR_SHAPE',
        `Expected dims of ${this.size} elements, got [${judged.join(', ')}], which has ${size}`,
      );
    if (!this.isContiguous)
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
   * @throws {IntFlashError} `ERR_OOM` with `where: 'host'` where the host has no array for it: without `into` one of 2^32 bytes is the longest that
   *   Node.js 20 has.
   */
  async download(options: { into?: TensorData; stream?: CudaStream } = {}): Promise<Tensor> {
    this.#expectLive();
    const { type, dims } = this;
    const strides = contiguousStrides(dims);
    const { stream, into } = readArguments(() => {
      const given = checkOptions(options, ['into', 'stream'], 'options');
      return {
        stream: checkStream(given.stream, this.#memory.device),
        into: given.into === undefined ? undefined : judgeTensor({ type, dims, data: given.into }, 'into').data,
      };
    });
    if (into) {
      await this.#download(this.#targetIn(into), stream);
      return { type, dims, strides, data: into };
    }
    const bytes = hostArray<Uint8Array<ArrayBuffer>>(Uint8Array, bytesOf(type, this.size), 'the download', IN_PARTS);
    await this.#download(bytes, stream);
    return { type, dims, strides, data: typedView(type, bytes.buffer) };
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
    if (!this.isContiguous)
      throw new IntFlashError(
        'ERR_UNSUPPORTED',
        `Expected a contiguous tensor to write to, got strides [${this.strides.join(', ')}]`,
      );
    const { stream, from } = readArguments(() => ({
      stream: checkStream(checkOptions(options, ['stream'], 'options').stream, device),
      from: source instanceof CudaTensor ? source : this.#hostSource(source),
    }));
    const at = bytesOf(this.type, this.#elementOffset);
    if (!(from instanceof CudaTensor)) return awaitNative(() => addon.write(device, buffer, at, from, stream));
    if (from.type !== this.type || from.size !== this.size || !from.isContiguous)
      throw new IntFlashError(
        'ERR_SHAPE',
        `Expected a contiguous ${this.type} tensor of ${this.size} elements, got ${from.type} [${from.dims.join(', ')}]`,
      );
    const place = from.nativeSource(device);
    const bytes = bytesOf(this.type, this.size);
    return awaitNative(() => addon.copy(device, place.buffer, place.byteOffset, buffer, at, bytes, stream));
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
    return awaitNative(() => addon.download(device, buffer, at, target, stream, this.#layout()));
  }

  /** Where the addon finds the elements; nothing where they lie one behind the other. */
  #layout(): NativeLayout | undefined {
    if (this.isContiguous) return undefined;
    const axes = this.dims.flatMap((dim, axis) => [dim, this.strides[axis]!]);
    return { elementBytes: bytesOf(this.type, 1), axes: Float64Array.from(axes) };
  }

  /** Page-locked memory of this device, to be written by the GPU. */
  #targetIn(into: TensorData) {
    if (!this.isContiguous)
      throw new IntFlashError(
        'ERR_UNSUPPORTED',
        `Expected a contiguous tensor to download in place, got strides [${this.strides.join(', ')}]`,
      );
    const target = pinnedSource(into, this.#memory.device);
    if (target) return target;
    throw new IntFlashError(
      'ERR_ARG_TYPE',
      'Expected into to view a PinnedBuffer of this CudaDevice, got other memory',
    );
  }

  #hostSource(source: unknown) {
    const { data } = judgeTensor({ type: this.type, dims: this.dims, data: source }, 'source');
    return pinnedSource(data, this.#memory.device) ?? data;
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

  #checkAxis(value: unknown, name: string): number {
    return readArguments(() => checkInteger(value ?? null, name, 0, 0, this.dims.length - 1));
  }

  #expectLive(): void {
    if (this.#memory.disposed)
      throw new IntFlashError('ERR_DISPOSED', 'Expected a live tensor, got one that was disposed');
  }
}
