import { describe, IntFlashError } from '@int-flash/ops';
import { CudaEvent, checkEvent } from './cuda-event.js';
import type { DeviceHandle, NativeAddon, StreamHandle } from './native-addon.js';
import { awaitNative, callNative } from './native-error.js';

/**
 * A queue of work on the GPU with a thread of its own. Calls on one stream run in order; calls on different streams side by side. A
 * tensor that a promise has delivered is there for every stream, so most programs need no events.
 */
export class CudaStream {
  readonly #addon: NativeAddon;
  readonly #device: DeviceHandle;
  readonly #handle: StreamHandle;
  #disposed = false;

  /** @internal Made by a CudaDevice. */
  constructor(addon: NativeAddon, device: DeviceHandle, handle: StreamHandle) {
    this.#addon = addon;
    this.#device = device;
    this.#handle = handle;
  }

  get disposed(): boolean {
    return this.#disposed;
  }

  /** Settles when everything queued so far is done. */
  async synchronize(): Promise<void> {
    const handle = this.nativeHandle(this.#device);
    await awaitNative(() => this.#addon.synchronize(this.#device, handle));
  }

  /** Marks the point behind everything queued so far. */
  record(): CudaEvent {
    const handle = this.nativeHandle(this.#device);
    return new CudaEvent(
      this.#addon,
      this.#device,
      callNative(() => this.#addon.recordEvent(this.#device, handle)),
    );
  }

  /** What is queued from now on starts only once the GPU has come by `event`, of this stream or another. */
  async wait(event: CudaEvent): Promise<void> {
    const handle = this.nativeHandle(this.#device);
    const mark = checkEvent(event, 'event', this.#device);
    await awaitNative(() => this.#addon.holdBack(this.#device, mark, handle));
  }

  /** Waits for what is queued, blocking, and ends the stream's thread; twice is a no-op. */
  dispose(): void {
    if (this.#disposed) return;
    this.#disposed = true;
    this.#addon.closeStream(this.#handle);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    // Lets the queue drain without blocking the event loop. On a device that is lost there is nothing to wait for, and whoever worked there has heard.
    if (!this.#disposed) await this.synchronize().catch(() => {});
    this.dispose();
  }

  /** @internal */
  nativeHandle(device: DeviceHandle): StreamHandle {
    if (this.#device !== device)
      throw new IntFlashError('ERR_ARG_TYPE', 'Expected a stream of this CudaDevice, got one of another');
    if (this.#disposed)
      throw new IntFlashError('ERR_DISPOSED', 'Expected an open CudaStream, got one that was disposed');
    return this.#handle;
  }
}

/** The `stream` option: undefined stands for the device's own. */
export function checkStream(value: unknown, device: DeviceHandle): StreamHandle | undefined {
  if (value === undefined) return undefined;
  if (!(value instanceof CudaStream))
    throw new IntFlashError('ERR_ARG_TYPE', `Expected stream to be a CudaStream, got ${describe(value)}`);
  return value.nativeHandle(device);
}
