import { describe, type ErrorCode, IntFlashError } from '@int-flash/ops';
import type { JsonObject } from './json-file.js';

/** Reads the fields of one JSON object, each with its range; a fault names the field. */
export class ConfigFields {
  readonly #object: JsonObject;
  readonly #file: string;
  readonly #path: string;

  /** @param path In front of each field's name in errors, e.g. `rope_scaling.`. */
  constructor(object: JsonObject, file: string, path = '') {
    this.#object = object;
    this.#file = file;
    this.#path = path;
  }

  /** Absent and `null` are the same thing in these files. */
  has(name: string): boolean {
    return this.raw(name) !== undefined;
  }

  raw(name: string): unknown {
    return Object.hasOwn(this.#object, name) ? (this.#object[name] ?? undefined) : undefined;
  }

  /** An integer from `min`; above `max` it is `ERR_MODEL_LIMIT`. Required without a fallback. */
  integer(name: string, min: number, max: number, fallback?: number): number {
    const value = this.#number(name, fallback);
    if (!Number.isInteger(value) || value < min) throw this.error(name, `an integer of at least ${min}`);
    if (value > max) throw this.error(name, `at most ${max}`, 'ERR_MODEL_LIMIT');
    return value;
  }

  /** A finite number in [min, max]. Required without a fallback. */
  number(name: string, min: number, max: number, fallback?: number): number {
    const value = this.#number(name, fallback);
    if (!(value >= min && value <= max)) throw this.error(name, `a number from ${min} to ${max}`);
    return value;
  }

  boolean(name: string, fallback: boolean): boolean {
    const value = this.raw(name) ?? fallback;
    if (typeof value !== 'boolean') throw this.error(name, 'true or false');
    return value;
  }

  text(name: string, fallback?: string): string {
    const value = this.raw(name) ?? fallback;
    if (typeof value !== 'string') throw this.error(name, 'a string');
    return value;
  }

  /** A nested object, or `undefined`. */
  section(name: string): ConfigFields | undefined {
    const value = this.raw(name);
    if (value === undefined) return undefined;
    if (typeof value !== 'object' || Array.isArray(value)) throw this.error(name, 'an object');
    return new ConfigFields(value as JsonObject, this.#file, `${this.#path}${name}.`);
  }

  keys(): string[] {
    return Object.keys(this.#object);
  }

  /** An array of strings; absent = empty. */
  strings(name: string, maxLength: number): string[] {
    const value = this.raw(name) ?? [];
    if (!Array.isArray(value) || !value.every((entry) => typeof entry === 'string')) {
      throw this.error(name, 'an array of strings');
    }
    if (value.length > maxLength) throw this.error(name, `at most ${maxLength} entries`, 'ERR_MODEL_LIMIT');
    return value;
  }

  /** One token id or a list of them, each in [0, vocabSize); absent = empty. */
  tokenIds(name: string, vocabSize: number): number[] {
    const value = this.raw(name) ?? [];
    const ids: unknown[] = Array.isArray(value) ? value : [value];
    if (ids.length > 64) throw this.error(name, 'at most 64 token ids', 'ERR_MODEL_LIMIT');
    for (const id of ids) {
      if (typeof id !== 'number' || !Number.isInteger(id) || id < 0 || id >= vocabSize) {
        throw this.error(name, `token ids from 0 to ${vocabSize - 1}`);
      }
    }
    return ids as number[];
  }

  error(name: string, expectation: string, code: ErrorCode = 'ERR_MODEL_FORMAT', hint?: string): IntFlashError {
    const field = `${this.#path}${name}`;
    const message = `Expected ${field} of ${this.#file} to be ${expectation}, got ${describe(this.raw(name))}`;
    return new IntFlashError(code, message, { field, hint });
  }

  #number(name: string, fallback?: number): number {
    const value = this.raw(name) ?? fallback;
    if (typeof value !== 'number') throw this.error(name, 'a number');
    return value;
  }
}
