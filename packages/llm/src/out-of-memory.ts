import { IntFlashError } from '@int-flash/ops';

/** A cache's pool has no page left for a sequence that wants one. */
export function noFreePage(where: 'host' | 'device'): IntFlashError {
  return new IntFlashError('ERR_OOM', 'Expected a free page of the KV cache, got none', { where });
}

export function isOutOfMemory(error: unknown): boolean {
  return IntFlashError.isInstance(error) && error.code === 'ERR_OOM';
}
