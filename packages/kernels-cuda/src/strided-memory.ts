import { checkInteger, describe, IntFlashError } from '@int-flash/ops';

/** Element types that device tensors hold. */
export type CudaDataType = 'float32' | 'float16' | 'bfloat16' | 'int8' | 'uint8' | 'bool';

const ELEMENT_BYTES: Record<CudaDataType, number> = {
  float32: 4,
  float16: 2,
  bfloat16: 2,
  int8: 1,
  uint8: 1,
  bool: 1,
};

/** Of one tensor: beyond any machine, and products stay exact. */
export const MAX_BYTES = 2 ** 46;

export function bytesOf(type: CudaDataType, elements: number): number {
  return elements * ELEMENT_BYTES[type];
}

/** One past the last element that any index touches, counted from the first. */
export function reach(dims: readonly number[], strides: readonly number[]): number {
  if (dims.includes(0)) return 0;
  return dims.reduce((sum, dim, axis) => sum + (dim - 1) * strides[axis]!, 1);
}

export function judgeCounts(value: unknown, name: string): number[] {
  if (!Array.isArray(value) || value.length > 8)
    throw new IntFlashError(
      'ERR_ARG_TYPE',
      `Expected ${name} to be an array of up to 8 integers, got ${describe(value)}`,
    );
  return Array.from(value, (entry: unknown, axis) => {
    if (typeof entry !== 'number')
      throw new IntFlashError('ERR_ARG_TYPE', `Expected ${name}[${axis}] to be a number, got ${describe(entry)}`);
    return checkInteger(entry, `${name}[${axis}]`, 0, 0, Number.MAX_SAFE_INTEGER);
  });
}
