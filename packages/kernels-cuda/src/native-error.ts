import { ERROR_CODES, type ErrorCode, type ErrorDetails, IntFlashError } from '@int-flash/ops';
import type { AbortFlag, NativeAddon } from './native-addon.js';

/** Gives an error of the addon's its class; `ERR_ABORTED` becomes the signal's reason. */
function fromNativeError(thrown: unknown, signal?: AbortSignal): unknown {
  const error = thrown as Error & { code?: string; where?: 'host' | 'device'; bytes?: number };
  if (error?.code === 'ERR_ABORTED' && signal) return signal.reason;
  if (!ERROR_CODES.includes(error?.code as ErrorCode)) return thrown;
  const details: ErrorDetails = {
    ...(error.where && { where: error.where }),
    ...(error.bytes && { bytes: error.bytes }),
    ...(error.code === 'ERR_OOM' && { hint: 'Dispose tensors that are no longer needed, or split the batch.' }),
    ...(error.code === 'ERR_DEVICE_LOST' && { hint: 'The CUDA context of this process is gone; restart the process.' }),
  };
  return new IntFlashError(error.code as ErrorCode, error.message, details);
}

/** Runs a native call that blocks. */
export function callNative<T>(work: () => T): T {
  try {
    return work();
  } catch (error) {
    throw fromNativeError(error);
  }
}

/** Waits for a native call. */
export async function awaitNative<T>(work: () => Promise<T>, signal?: AbortSignal): Promise<T> {
  try {
    return await work();
  } catch (error) {
    throw fromNativeError(error, signal);
  }
}

/** Waits for a native call that looks at a flag between kernels; `signal` raises it. */
export async function withAbortFlag<T>(
  addon: NativeAddon,
  signal: AbortSignal | undefined,
  work: (flag: AbortFlag | undefined) => Promise<T>,
): Promise<T> {
  if (!signal) return awaitNative(() => work(undefined));
  signal.throwIfAborted();
  const flag = addon.abortFlag();
  const onAbort = () => addon.raiseAbortFlag(flag);
  signal.addEventListener('abort', onAbort, { once: true });
  try {
    return await awaitNative(() => work(flag), signal);
  } finally {
    signal.removeEventListener('abort', onAbort);
  }
}
