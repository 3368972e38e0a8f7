import { checkInteger, describe, IntFlashError, type TensorData } from '@int-flash/ops';

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

/** A strided tensor's elements in row-major order. */
export function gather(from: TensorData, dims: readonly number[], strides: readonly number[]): TensorData {
  const size = dims.reduce((product, dim) => product * dim, 1);
  const result = new (from.constructor as new (length: number) => TensorData)(size);
  const index = new Array<number>(dims.length).fill(0);
  let at = 0;
  for (let i = 0; i < size; i++) {
    result[i] = from[at]!;
    for (let axis = dims.length - 1; axis >= 0; axis--) {
      at += strides[axis]!;
      if (++index[axis]! < dims[axis]!) break;
      at -= strides[axis]! * dims[axis]!;
      index[axis] = 0;
    }
  }
  return result;
}
