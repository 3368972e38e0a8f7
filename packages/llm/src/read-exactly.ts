import type { FileHandle } from 'node:fs/promises';
import { IntFlashError } from '@int-flash/ops';

const CHUNK_BYTES = 2 ** 22; // 4 MiB: about a millisecond from the page cache, so an abort is seen at once

export interface ReadOptions {
  readonly signal?: AbortSignal | undefined;
  /** Called after each chunk with the bytes it brought. */
  readonly onBytes?: ((bytes: number) => void) | undefined;
}

/**
 * Reads a span of a weight file into memory of its own.
 *
 * @param name Of the file, for messages.
 * @throws {IntFlashError} `ERR_MODEL_FORMAT` when the file shrank, `ERR_OOM`. Rejects with `signal.reason`.
 */
export async function readExactly(
  file: FileHandle,
  name: string,
  position: number,
  length: number,
  { signal, onBytes }: ReadOptions,
): Promise<Uint8Array> {
  const bytes = allocate(length, name);
  let filled = 0;
  while (filled < length) {
    signal?.throwIfAborted();
    const { bytesRead } = await file.read(bytes, filled, Math.min(CHUNK_BYTES, length - filled), position + filled);
    if (bytesRead === 0) {
      throw new IntFlashError('ERR_MODEL_FORMAT', `Expected ${length} bytes of ${name} at ${position}, got ${filled}`, {
        field: name,
        offset: position + filled,
        hint: 'The file shrank while it was being read.',
      });
    }
    filled += bytesRead;
    onBytes?.(bytesRead);
  }
  return bytes;
}

function allocate(length: number, name: string): Uint8Array {
  try {
    return new Uint8Array(length);
  } catch (cause) {
    throw new IntFlashError(
      'ERR_OOM',
      `Expected ${length} bytes of memory for a tensor of ${name}, got an allocation failure`,
      {
        where: 'host',
        bytes: length,
        cause,
      },
    );
  }
}
