import { checkOptions, checkSignal, readArguments, wrongType } from '@int-flash/ops';
import type { JsonObject } from './json-file.js';

/** What functions that open a model's files are given: each check throws `ERR_ARG_TYPE` for what is of another type. */

export function checkPath(value: unknown, name: string): string {
  if (typeof value === 'string') return value;
  throw wrongType(`${name} to be a path, as a string`, value);
}

/** An object as JSON text has them; the tag tells an array, a Map or a URL from one. */
export function checkJsonObject(value: unknown, name: string): JsonObject {
  if (typeof value === 'object' && readArguments(() => Object.prototype.toString.call(value)) === '[object Object]') {
    return value as JsonObject;
  }
  throw wrongType(`${name} to be an object`, value);
}

/** Options of which there are two: `signal`, and a function named `callback`. Each is read once. */
export function checkReadOptions<T extends object>(options: T, callback: keyof T & string): T {
  return readArguments(() => {
    const given = checkOptions(options, ['signal', callback], 'options');
    const told = given[callback];
    if (told !== undefined && typeof told !== 'function') throw wrongType(`${callback} to be a function`, told);
    return { signal: checkSignal(given.signal), [callback]: told } as T;
  });
}
