import {
  checkBuffer,
  type FloatType,
  hostArray,
  IntFlashError,
  plainArray,
  readArguments,
  toFloat32,
  typedArrayKind,
  wrongType,
} from '@int-flash/ops';

/** What every quantizer takes: float32 values, or the bits of 16-bit floats with their type. */
export type FloatInput = Float32Array | { readonly type: FloatType; readonly data: Float32Array | Uint16Array };

/**
 * Float32 values of `input`; the array itself where it is float32 already, or `plainArray` of it.
 *
 * @throws {IntFlashError} `ERR_ARG_TYPE`, `ERR_BUFFER_DETACHED`, `ERR_BUFFER_SHARED`, `ERR_BUFFER_RESIZABLE`, `ERR_OOM`.
 */
export function readFloatInput(input: FloatInput): Float32Array {
  if (typedArrayKind(input) === 'Float32Array') {
    checkBuffer(input as Float32Array, 'input');
    return plainArray(input as Float32Array);
  }
  const { type, data: given } = readArguments(() => readTyped(input));
  checkBuffer(given, 'input', '.data');
  const data = plainArray(given);
  if (type === 'float32') return data as Float32Array;
  return toFloat32(data, type, hostArray(Float32Array, data.length, 'the input in float32'));
}

function readTyped(input: unknown): { type: FloatType; data: Float32Array | Uint16Array } {
  if (typeof input === 'object' && input !== null) {
    const { type, data } = input as { type: FloatType; data: Float32Array | Uint16Array };
    const kind = typedArrayKind(data);
    if (type === 'float32' && kind === 'Float32Array') return { type, data };
    if ((type === 'float16' || type === 'bfloat16') && kind === 'Uint16Array') return { type, data };
  }
  throw wrongType('input to be a Float32Array or {type, data} of float32, float16 or bfloat16', input);
}

/**
 * Rows of `dim` elements.
 *
 * @param what Whose length it is, in messages.
 * @throws {IntFlashError} `ERR_ARG_TYPE` unless dim is a number, `ERR_SHAPE` unless it is a positive integer that divides the length.
 */
export function countRows(length: number, dim: number, what = 'input'): number {
  if (typeof dim !== 'number') throw wrongType('dim to be a number', dim);
  if (!Number.isSafeInteger(dim) || dim < 1)
    throw new IntFlashError('ERR_SHAPE', `Expected dim to be a positive integer below 2^53, got ${dim}`);
  if (length % dim !== 0) {
    throw new IntFlashError(
      'ERR_SHAPE',
      `Expected ${what} length to be a multiple of dim, got length ${length} and dim ${dim}`,
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
