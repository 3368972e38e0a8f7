import { IntFlashError } from '@int-flash/ops';

/** A cache's pool has no page left for a sequence that wants one. */
export function noFreePage(where: 'host' | 'device'): IntFlashError {
  return new IntFlashError('ERR_OOM', 'Expected a free page of the KV cache, got none', { where });
}

/** The machine has no room for a cache's pages. */
export function noRoomForPages(bytes: number, cause: unknown): IntFlashError {
  return new IntFlashError('ERR_OOM', `Expected ${bytes} bytes of memory for the KV cache, got none`, {
    where: 'host',
    bytes,
    hint: 'Lower kvCacheBytes (--kv-cache-memory), or leave it out.',
    cause,
  });
}

export function isOutOfMemory(error: unknown): boolean {
  return IntFlashError.isInstance(error) && error.code === 'ERR_OOM';
}
