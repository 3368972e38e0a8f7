import { describe, IntFlashError, readArguments } from '@int-flash/ops';
import type { DeviceHandle, EventHandle, NativeAddon } from './native-addon.js';
import { awaitNative } from './native-error.js';

/** A point in a stream's work, made by `CudaStream.record()`. It needs no disposing. */
export class CudaEvent {
  readonly #addon: NativeAddon;
  readonly #device: DeviceHandle;
  readonly #handle: EventHandle;

  /** @internal */
  constructor(addon: NativeAddon, device: DeviceHandle, handle: EventHandle) {
    this.#addon = addon;
    this.#device = device;
    this.#handle = handle;
  }

  /** Settles when the GPU has come by, and has done what its stream was given between `record()` and this call. */
  async done(): Promise<void> {
    await awaitNative(() => this.#addon.awaitEvent(this.#device, this.#handle));
  }

  /** Milliseconds of GPU time from `start`, an earlier event of the same device, to this one; waits for both. */
  async millisecondsSince(start: CudaEvent): Promise<number> {
    const mark = checkEvent(start, 'start', this.#device);
    return awaitNative(() => this.#addon.eventMs(this.#device, mark, this.#handle));
  }

  /** @internal */
  nativeHandle(device: DeviceHandle): EventHandle {
    if (this.#device !== device)
      throw new IntFlashError('ERR_ARG_TYPE', 'Expected an event of this CudaDevice, got one of another');
    return this.#handle;
  }
}

/** An event of `device`, for the addon. */
export function checkEvent(value: unknown, name: string, device: DeviceHandle): EventHandle {
  return readArguments(() => {
    if (value instanceof CudaEvent) return value.nativeHandle(device);
    throw new IntFlashError('ERR_ARG_TYPE', `Expected ${name} to be a CudaEvent, got ${describe(value)}`);
  });
}
