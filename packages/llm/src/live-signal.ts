import { checkSignal } from '@int-flash/ops';

/**
 * A signal that answers, or undefined. An object made from `AbortSignal.prototype` passes for one and throws when it is first asked,
 * which may be much later.
 *
 * Called inside `readArguments`, which makes an argument error of what it throws.
 */
export function checkLiveSignal(value: unknown, name = 'signal'): AbortSignal | undefined {
  const signal = checkSignal(value, name);
  void signal?.aborted;
  return signal;
}
