import {
  checkBuffer,
  checkInteger,
  type HostArrayKind,
  IntFlashError,
  plainArray,
  readArguments,
  typedArrayKind,
  wrongType,
} from '@int-flash/ops';

type NamedKind<T> = HostArrayKind<T> & { readonly name: string };

/**
 * `value` as an array of `kind`, in memory that nobody else changes or takes away: itself, or `plainArray` of it. A Proxy of one is none.
 *
 * @throws {IntFlashError} `ERR_ARG_TYPE`, `ERR_BUFFER_DETACHED`, `ERR_BUFFER_SHARED`, `ERR_BUFFER_RESIZABLE`.
 */
export function checkArray<T extends ArrayBufferView>(value: unknown, name: string, kind: NamedKind<T>): T {
  if (typedArrayKind(value) !== kind.name)
    throw wrongType(`${name} to be ${kind.name.startsWith('I') ? 'an' : 'a'} ${kind.name}`, value);
  checkBuffer(value as T, name);
  return plainArray(value as T);
}

/** @throws {IntFlashError} `ERR_ARG_TYPE`, `ERR_ARG_RANGE` unless `value` is an integer in [min, max]. */
export function checkCount(value: unknown, name: string, min = 1, max: number = Number.MAX_SAFE_INTEGER): number {
  if (typeof value !== 'number') throw wrongType(`${name} to be a number`, value);
  return checkInteger(value, name, min, min, max);
}

/** @throws {IntFlashError} `ERR_ARG_TYPE`, `ERR_ARG_RANGE` unless `value` is one of `choices`. */
export function checkNumberChoice<T extends number>(value: unknown, name: string, choices: readonly T[]): T {
  if (typeof value !== 'number') throw wrongType(`${name} to be a number`, value);
  if (!(choices as readonly number[]).includes(value))
    throw new IntFlashError('ERR_ARG_RANGE', `Expected ${name} to be one of ${choices.join(', ')}, got ${value}`);
  return value as T;
}

/** How each field of a `T` is read: what judges it, given its value and name. */
export type FieldReaders<T> = { readonly [K in keyof T]: (value: unknown, name: string) => T[K] };

/**
 * Reads the fields of a caller's object, each once, so that no getter can change its answer later.
 *
 * @throws {IntFlashError} `ERR_ARG_TYPE`, and what the readers throw.
 */
export function readFields<T extends object>(given: unknown, readers: FieldReaders<T>): T {
  return readArguments(() => {
    if (typeof given !== 'object' || given === null)
      throw wrongType(`an object of ${Object.keys(readers).join(', ')}`, given);
    const fields = {} as T;
    for (const name in readers) fields[name] = readers[name]((given as T)[name], name);
    return fields;
  });
}

/** Readers of the arrays that codes and scales lie in. */
export const int8Array = (value: unknown, name: string) => checkArray(value, name, Int8Array);
export const uint8Array = (value: unknown, name: string) => checkArray(value, name, Uint8Array);
export const float32Array = (value: unknown, name: string) => checkArray(value, name, Float32Array);

/** @throws {IntFlashError} `ERR_SHAPE` unless an array has the length that the others ask for. */
export function checkLength(array: { readonly length: number }, name: string, expected: number, why: string): void {
  if (array.length !== expected)
    throw new IntFlashError('ERR_SHAPE', `Expected ${name} to hold ${expected} for ${why}, got ${array.length}`);
}
