import type { DeviceHandle, NativeAddon, NativePinnedSource, PinnedHandle } from './native-addon.js';

/** Element types that a {@link PinnedBuffer} holds, and the arrays they come in; 16-bit floats travel as bits. */
export interface PinnedArrays {
  float32: Float32Array;
  float16: Uint16Array;
  bfloat16: Uint16Array;
  int8: Int8Array;
  uint8: Uint8Array;
  bool: Uint8Array;
}

interface Pinned {
  readonly device: DeviceHandle;
  readonly handle: PinnedHandle;
}

const pinnedMemory = new WeakMap<ArrayBufferLike, Pinned>();

/**
 * Page-locked host memory as a typed array, zero at first. `upload`, `write` and `download({ into })` let the GPU copy from and to it
 * directly, at the full speed of the bus; nothing is copied beforehand, so leave it alone until their promises settle.
 */
export class PinnedBuffer<T extends keyof PinnedArrays = keyof PinnedArrays> {
  readonly #addon: NativeAddon;
  readonly #handle: PinnedHandle;
  readonly #memory: ArrayBuffer;
  /** Empty once disposed. */
  readonly data: PinnedArrays[T];
  readonly byteLength: number;

  /** @internal Made by a CudaDevice. */
  constructor(
    addon: NativeAddon,
    device: DeviceHandle,
    { handle, memory }: { handle: PinnedHandle; memory: ArrayBuffer },
    readonly type: T,
  ) {
    this.#addon = addon;
    this.#handle = handle;
    this.#memory = memory;
    this.byteLength = memory.byteLength;
    this.data = typedView(type, memory) as PinnedArrays[T];
    pinnedMemory.set(memory, { device, handle });
  }

  get disposed(): boolean {
    return !pinnedMemory.has(this.#memory);
  }

  /** Detaches `data` and gives the memory back as soon as no copy is under way; twice is a no-op. */
  dispose(): void {
    if (!pinnedMemory.delete(this.#memory)) return;
    this.#addon.disposePinned(this.#handle, this.#memory);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.dispose();
  }
}

/** Where the addon finds a view's memory, if it is page-locked memory of `device`. */
export function pinnedSource(view: ArrayBufferView, device: DeviceHandle): NativePinnedSource | undefined {
  const pinned = pinnedMemory.get(view.buffer);
  if (pinned?.device !== device) return undefined;
  return { pinned: pinned.handle, byteOffset: view.byteOffset, bytes: view.byteLength };
}

export function typedView(type: keyof PinnedArrays, memory: ArrayBuffer): PinnedArrays[keyof PinnedArrays] {
  if (type === 'float32') return new Float32Array(memory);
  if (type === 'int8') return new Int8Array(memory);
  return type === 'uint8' || type === 'bool' ? new Uint8Array(memory) : new Uint16Array(memory);
}
