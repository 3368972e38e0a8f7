import { describe, type FloatType, IntFlashError, toFloat32 } from '@int-flash/ops';

/** What every quantizer takes: float32 values, or the bits of 16-bit floats with their type. */
export type FloatInput = Float32Array | { readonly type: FloatType; readonly data: Float32Array | Uint16Array };

/**
 * Float32 values of `input`; the array itself where it is float32 already.
 *
 * @throws {IntFlashError} `ERR_ARG_TYPE`.
 */
export function readFloatInput(input: FloatInput): Float32Array {
  if (input instanceof Float32Array) return input;
  if (typeof input === 'object' && input !== null) {
    const { type, data } = input;
    if (type === 'float32' && data instanceof Float32Array) return data;
    if ((type === 'float16' || type === 'bfloat16') && data instanceof Uint16Array) return toFloat32(data, type);
  }
  throw new IntFlashError(
    'ERR_ARG_TYPE',
    `Expected input to be a Float32Array or {type, data} of float32, float16 or bfloat16, got ${describe(input)}`,
  );
}

/**
 * Rows of `dim` elements.
 *
 * @throws {IntFlashError} `ERR_SHAPE` unless dim is a positive integer that divides the length.
 */
export function countRows(length: number, dim: number): number {
  if (!Number.isInteger(dim) || dim < 1 || length % dim !== 0) {
    throw new IntFlashError(
      'ERR_SHAPE',
      `Expected input length to be a multiple of dim, got length ${length} and dim ${dim}`,
    );
  }
  return length / dim;
}

/**
 * The largest magnitude of elements [from, to).
 *
 * @throws {IntFlashError} `ERR_NONFINITE`, naming the element by its index in `values`.
 */
export function maxAbs(values: Float32Array, from: number, to: number): number {
  let max = 0;
  for (let i = from; i < to; i++) {
    const magnitude = Math.abs(values[i]!);
    if (magnitude > max) max = magnitude;
    if (!(magnitude < Infinity)) throw nonFinite(values[i]!, i);
  }
  return max;
}

export function nonFinite(value: number, element: number): IntFlashError {
  return new IntFlashError('ERR_NONFINITE', `Expected finite numbers, got ${value} at element ${element}`);
}
