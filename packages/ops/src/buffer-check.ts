import { IntFlashError } from './int-flash-error.js';
import { typedArrayKind, viewedBuffer } from './plain-array.js';

/**
 * Rejects memory that another thread or a later call could change or take away while it is being read.
 *
 * @param field Put after `name` in messages.
 * @throws {IntFlashError} `ERR_BUFFER_SHARED` (SharedArrayBuffer), `ERR_BUFFER_RESIZABLE` (constructed with maxByteLength),
 *   `ERR_BUFFER_DETACHED` (transferred away).
 */
export function checkBuffer(view: ArrayBufferView, name: string, field = ''): void {
  const buffer = viewedBuffer(view);
  if (!(buffer instanceof ArrayBuffer) && Object.prototype.toString.call(buffer) === '[object SharedArrayBuffer]') {
    // not by instanceof: it may come from another realm
    throw new IntFlashError(
      'ERR_BUFFER_SHARED',
      `Expected ${name}${field} to own its memory, got a view of a SharedArrayBuffer`,
      {
        hint: `Copy it first: new ${typedArrayKind(view) ?? 'Uint8Array'}(shared).`,
      },
    );
  }
  const plain = buffer as ArrayBuffer & { resizable?: boolean; detached?: boolean };
  if (plain.resizable === true) {
    throw new IntFlashError(
      'ERR_BUFFER_RESIZABLE',
      `Expected ${name}${field} in a buffer of fixed length, got a resizable ArrayBuffer`,
      {
        hint: 'Copy it first with slice().',
      },
    );
  }
  if (isDetached(plain)) {
    throw new IntFlashError(
      'ERR_BUFFER_DETACHED',
      `Expected ${name}${field} to hold its memory, got a detached buffer`,
      {
        hint: 'It was transferred to another thread; keep a copy on this side.',
      },
    );
  }
}

/** Node 20 has no `ArrayBuffer.prototype.detached`; there, only a detached buffer refuses to be viewed. */
function isDetached(buffer: ArrayBuffer & { detached?: boolean }): boolean {
  if (typeof buffer.detached === 'boolean') return buffer.detached;
  if (buffer.byteLength > 0) return false;
  try {
    new Uint8Array(buffer);
    return false;
  } catch {
    return true;
  }
}
