import { IntFlashError } from '@int-flash/ops';
import type { GgufValue } from './gguf-header.js';

/** Reads keys of a GGUF file, each with its type; a fault names the key. */
export class GgufMetadata {
  constructor(private readonly values: ReadonlyMap<string, GgufValue>) {}

  has(key: string): boolean {
    return this.values.has(key);
  }

  keys(): string[] {
    return [...this.values.keys()];
  }

  text(key: string): string {
    const value = this.#required(key);
    if (typeof value !== 'string') throw this.fault(key, 'a string');
    return value;
  }

  boolean(key: string, fallback: boolean): boolean {
    const value = this.values.get(key) ?? fallback;
    if (typeof value !== 'boolean') throw this.fault(key, 'true or false');
    return value;
  }

  /** Any number the file has; who uses it judges its range. */
  number(key: string): number {
    const value = this.#required(key);
    const number = typeof value === 'bigint' ? Number(value) : value;
    if (typeof number !== 'number' || !Number.isFinite(number)) throw this.fault(key, 'a number');
    return number;
  }

  strings(key: string): readonly string[] {
    return this.#array(key, 'string') as readonly string[];
  }

  numbers(key: string): readonly number[] {
    const values = this.#array(key, 'number', 'bigint');
    return values.map(Number);
  }

  fault(key: string, expected: string): IntFlashError {
    return new IntFlashError(
      'ERR_MODEL_FORMAT',
      `Expected ${key} of the GGUF file to be ${expected}, got another value`,
      {
        field: key.slice(0, 120),
      },
    );
  }

  #required(key: string): GgufValue {
    const value = this.values.get(key);
    if (value !== undefined) return value;
    throw new IntFlashError('ERR_MODEL_FORMAT', `Expected the GGUF file to have ${key}, got no such key`, {
      field: key,
    });
  }

  #array(key: string, ...types: string[]): readonly unknown[] {
    const value = this.#required(key);
    if (!Array.isArray(value) || !value.every((entry) => types.includes(typeof entry))) {
      throw this.fault(key, `an array of ${types[0]}s`);
    }
    return value;
  }
}
