import { IntFlashError } from './int-flash-error.js';

/** Constructor of a typed array. */
export interface HostArrayKind<T> {
  new (length: number): T;
  readonly BYTES_PER_ELEMENT: number;
}

/**
 * `length` zeros. How many a typed array holds depends on Node.js (2^32 elements in version 20), and how many there is memory for on the machine; V8 has a
 * RangeError for both.
 *
 * @param length an integer >= 0; whoever calls has judged it.
 * @param what what it is for, in the message.
 * @param hint what the caller can do instead.
 * @throws {IntFlashError} `ERR_OOM` with `where: 'host'` and `bytes`.
 */
export function hostArray<T>(kind: HostArrayKind<T>, length: number, what: string, hint?: string): T {
  try {
    return new kind(length);
  } catch (cause) {
    throw noHostMemory(length * kind.BYTES_PER_ELEMENT, what, { cause, ...(hint !== undefined && { hint }) });
  }
}

/** Zeros for a tensor of these dims; the rest as {@link hostArray}. */
export function hostArrayOf<T>(kind: HostArrayKind<T>, dims: readonly number[], what: string, hint?: string): T {
  return hostArray(
    kind,
    dims.reduce((product, dim) => product * dim, 1),
    what,
    hint,
  );
}

/** What is thrown where host memory is not to be had. */
export function noHostMemory(
  bytes: number,
  what: string,
  { cause, hint }: { readonly cause?: unknown; readonly hint?: string } = {},
): IntFlashError {
  const why = cause instanceof Error ? `: ${cause.message}` : '';
  return new IntFlashError('ERR_OOM', `Expected ${bytes} bytes of host memory for ${what}, got none${why}`, {
    where: 'host',
    bytes,
    ...(cause !== undefined && { cause }),
    ...(hint !== undefined && { hint }),
  });
}
