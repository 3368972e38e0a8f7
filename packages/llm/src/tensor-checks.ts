import { IntFlashError } from '@int-flash/ops';
import { quote } from './json-text.js';

/** What is wrong with a tensor of a model's files. @param name transformers' */
export function tensorError(name: string, message: string): IntFlashError {
  return new IntFlashError('ERR_MODEL_FORMAT', message, { field: `tensors.${name.slice(0, 120)}` });
}

export function expectShape(name: string, shape: readonly number[], wanted: readonly number[]): void {
  if (shape.join() !== wanted.join()) {
    throw tensorError(name, `Expected ${quote(name)} of shape [${wanted.join(', ')}], got [${shape.join(', ')}]`);
  }
}

/**
 * A loop: a callback an element costs a large embedding more than a second.
 *
 * @param stored the tensor's name in its file
 * @param what   what the values are
 */
export function expectFinite(name: string, values: Float32Array, stored = name, what = 'element'): void {
  for (let i = 0; i < values.length; i++) {
    if (!Number.isFinite(values[i]))
      throw tensorError(name, `Expected ${quote(stored)} to be finite, got ${values[i]} at ${what} ${i}`);
  }
}
