import { IntFlashError } from './int-flash-error.js';

/** Names a value the way an error message wants it: "null", "a DataView", "the string \"x\"". */
export function describe(value: unknown): string {
  if (value === null || value === undefined) return String(value);
  if (typeof value === 'string') return `the string ${JSON.stringify(value.slice(0, 40))}`;
  if (typeof value === 'number' || typeof value === 'boolean') return String(value);
  if (typeof value === 'bigint') return `the bigint ${value}`;
  if (typeof value === 'function' || typeof value === 'symbol') return `a ${typeof value}`;
  try {
    if (Array.isArray(value)) return `an array of ${value.length}`;
    const tag = Object.prototype.toString.call(value).slice(8, -1).slice(0, 40); // a value may name itself
    return /^[AEIOU]/.test(tag) ? `an ${tag}` : `a ${tag}`;
  } catch {
    return 'an object that cannot be read'; // a Proxy that throws, or a revoked one
  }
}

/** What is thrown for a value of another type. */
export function wrongType(expected: string, given: unknown): IntFlashError {
  return new IntFlashError('ERR_ARG_TYPE', `Expected ${expected}, got ${describe(given)}`);
}
