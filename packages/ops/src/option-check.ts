import { describe } from './describe.js';
import { IntFlashError } from './int-flash-error.js';

/** Rejects anything but a plain options object whose keys are all `known`: a misspelled option must not be dropped silently. */
export function checkOptions(options: unknown, known: readonly string[], name: string): Record<string, unknown> {
  if (options === undefined) return {};
  // The tag tells a Map or a Date from an object: their entries are no options, and would be dropped without a word.
  if (
    typeof options !== 'object' ||
    options === null ||
    (Object.getPrototypeOf(options) !== Object.prototype &&
      Object.prototype.toString.call(options) !== '[object Object]')
  ) {
    throw new IntFlashError('ERR_ARG_TYPE', `Expected ${name} to be an object, got ${describe(options)}`);
  }
  for (const key of Object.keys(options)) {
    if (!known.includes(key)) {
      throw new IntFlashError('ERR_ARG_RANGE', `Expected ${name} to hold only known keys, got "${key.slice(0, 60)}"`, {
        hint: `Known keys: ${known.join(', ')}.`,
      });
    }
  }
  return { ...options } as Record<string, unknown>; // one read of every getter
}

/** A finite number inside [min, max], or `fallback` when absent. */
export function checkNumber(value: unknown, name: string, fallback: number, min: number, max: number): number {
  if (value === undefined) return fallback;
  if (typeof value !== 'number')
    throw new IntFlashError('ERR_ARG_TYPE', `Expected ${name} to be a number, got ${describe(value)}`);
  if (!(value >= min && value <= max))
    throw new IntFlashError('ERR_ARG_RANGE', `Expected ${name} to be in [${min}, ${max}], got ${value}`);
  return value;
}

/** An integer inside [min, max], or `fallback` when absent. */
export function checkInteger(value: unknown, name: string, fallback: number, min: number, max: number): number {
  const number = checkNumber(value, name, fallback, min, max);
  if (!Number.isInteger(number))
    throw new IntFlashError('ERR_ARG_RANGE', `Expected ${name} to be an integer, got ${number}`);
  return number;
}

/**
 * The integer that an environment variable gives, in plain digits; undefined where it is not set, or empty.
 *
 * @throws {IntFlashError} `ERR_ARG_RANGE`.
 */
export function readIntegerVariable(name: string, min: number, max: number): number | undefined {
  const text = process.env[name];
  if (text === undefined || text === '') return undefined;
  const value = Number(text);
  if (!/^\d+$/.test(text) || value < min || value > max) {
    const expected = `Expected the environment variable ${name} to be an integer from ${min} to ${max}`;
    throw new IntFlashError('ERR_ARG_RANGE', `${expected}, got ${describe(text)}`);
  }
  return value;
}

export function checkBoolean(value: unknown, name: string, fallback: boolean): boolean {
  if (value === undefined) return fallback;
  if (typeof value !== 'boolean')
    throw new IntFlashError('ERR_ARG_TYPE', `Expected ${name} to be a boolean, got ${describe(value)}`);
  return value;
}

/** One of a fixed list of strings, or `fallback` when absent. */
export function checkChoice<T extends string>(value: unknown, name: string, choices: readonly T[], fallback: T): T {
  if (value === undefined) return fallback;
  if (typeof value !== 'string')
    throw new IntFlashError('ERR_ARG_TYPE', `Expected ${name} to be a string, got ${describe(value)}`);
  if (!(choices as readonly string[]).includes(value)) {
    throw new IntFlashError(
      'ERR_ARG_RANGE',
      `Expected ${name} to be one of ${choices.join(', ')}, got ${describe(value)}`,
    );
  }
  return value as T;
}

export function checkSignal(value: unknown, name = 'signal'): AbortSignal | undefined {
  if (value === undefined) return undefined;
  if (!isSignal(value))
    throw new IntFlashError('ERR_ARG_TYPE', `Expected ${name} to be an AbortSignal, got ${describe(value)}`);
  return value;
}

/** Asks it: an object made from `AbortSignal.prototype` passes for one otherwise, and a Proxy may throw. */
function isSignal(value: unknown): value is AbortSignal {
  try {
    return value instanceof AbortSignal && typeof value.aborted === 'boolean';
  } catch {
    return false;
  }
}

/** What a getter or a Proxy of the caller's throws (a revoked Proxy throws at any touch) comes back as an argument error, as its cause. */
export function readArguments<T>(read: () => T): T {
  try {
    return read();
  } catch (cause) {
    if (IntFlashError.isInstance(cause)) throw cause;
    throw new IntFlashError('ERR_ARG_TYPE', 'Expected readable arguments, got one that throws when read', { cause });
  }
}
