import { checkBuffer } from './buffer-check.js';
import { describe } from './describe.js';
import { IntFlashError } from './int-flash-error.js';
import { readArguments } from './option-check.js';
import { plainArray, typedArrayKind } from './plain-array.js';

/** Element types, spelled as onnxruntime spells them. */
export type DataType = 'float32' | 'float16' | 'bfloat16' | 'int8' | 'uint8' | 'int32' | 'int4' | 'bool';

/** What `data` may be for each type. 16-bit floats travel as bits; `int4` is two codes a byte. */
export type TensorData = Float32Array | Uint16Array | Int8Array | Uint8Array | Int32Array;

/**
 * A tensor as callers hand it over. Structural: an onnxruntime or transformers.js tensor fits as it is.
 * A `Float16Array` (Node 24) is accepted as `float16` and read through its bits.
 */
export interface TensorLike {
  readonly type: DataType | (string & {});
  readonly dims: readonly number[];
  readonly data: unknown;
  /** Elements between neighbours along each axis; row-major contiguous when absent. */
  readonly strides?: readonly number[];
}

/** A tensor after the judge: types agree, every index that `dims` allows lies inside `data`. */
export interface Tensor {
  readonly type: DataType;
  readonly dims: readonly number[];
  readonly data: TensorData;
  readonly strides: readonly number[];
}

/** Reads a caller's tensor; `data` may be empty where its numbers lie elsewhere and the judge has seen that the indices do. */
export type TensorJudge = (value: unknown, name: string, types?: readonly DataType[]) => Tensor;

const CONSTRUCTORS: Record<DataType, readonly string[]> = {
  float32: ['Float32Array'],
  float16: ['Uint16Array', 'Float16Array'],
  bfloat16: ['Uint16Array'],
  int8: ['Int8Array'],
  uint8: ['Uint8Array'],
  int32: ['Int32Array'],
  int4: ['Uint8Array', 'Int8Array'],
  bool: ['Uint8Array'],
};

/** Makes a contiguous tensor; checks that `data` holds exactly the product of `dims`. */
export function tensor(type: DataType, data: TensorData, dims: readonly number[]): Tensor {
  return judgeTensor({ type, data, dims }, 'tensor');
}

/** Row-major strides in elements. */
export function contiguousStrides(dims: readonly number[]): number[] {
  const strides = new Array<number>(dims.length).fill(1);
  for (let axis = dims.length - 2; axis >= 0; axis--) strides[axis] = strides[axis + 1]! * Math.max(dims[axis + 1]!, 1);
  return strides;
}

/**
 * Checks one tensor and reads each of its fields once, so that getters and Proxies cannot change their answer later.
 *
 * @param types Allowed element types.
 * @throws {IntFlashError} `ERR_ARG_TYPE` (with what a field throws when read as its cause), `ERR_ARG_RANGE`, `ERR_SHAPE`, `ERR_OVERFLOW`, `ERR_BUFFER_*`.
 */
export function judgeTensor(value: unknown, name: string, types?: readonly DataType[]): Tensor {
  return readArguments(() => readTensor(value, name, types));
}

function readTensor(value: unknown, name: string, types: readonly DataType[] | undefined): Tensor {
  if (typeof value !== 'object' || value === null || Array.isArray(value) || ArrayBuffer.isView(value)) {
    throw new IntFlashError(
      'ERR_ARG_TYPE',
      `Expected ${name} to be a tensor {type, dims, data}, got ${describe(value)}`,
    );
  }
  const { location } = value as { readonly location?: unknown };
  // Before `data`, which onnxruntime's tensors throw for when they lie elsewhere.
  if (typeof location === 'string' && !location.startsWith('cpu')) {
    throw new IntFlashError(
      'ERR_ARG_TYPE',
      `Expected ${name} in host memory, got a tensor whose location is ${describe(location)}`,
      { hint: 'Download it first. Tensors of a CudaDevice stay on the GPU with the functions of that device.' },
    );
  }
  const { type, dims, data, strides } = value as Partial<TensorLike>;
  if (typeof type !== 'string' || !Object.hasOwn(CONSTRUCTORS, type) || (types && !types.includes(type as DataType))) {
    const allowed = (types ?? (Object.keys(CONSTRUCTORS) as DataType[])).join(', ');
    throw new IntFlashError('ERR_ARG_TYPE', `Expected ${name}.type to be one of ${allowed}, got ${describe(type)}`);
  }
  const judgedDims = judgeIntegers(dims, name, 'dims');
  const kind = typedArrayKind(data);
  if (!ArrayBuffer.isView(data) || kind === undefined || !CONSTRUCTORS[type as DataType].includes(kind)) {
    const expected = CONSTRUCTORS[type as DataType].join(' or ');
    throw new IntFlashError(
      'ERR_ARG_TYPE',
      `Expected ${name}.data to be a ${expected} for type ${type}, got ${describe(data)}`,
    );
  }
  checkBuffer(data, name, '.data');
  const plain = plainArray(data);
  const typed: TensorData =
    kind === 'Float16Array'
      ? new Uint16Array(plain.buffer, plain.byteOffset, plain.byteLength / 2)
      : (plain as TensorData);
  const perByte = type === 'int4' ? 2 : 1;
  const count = product(judgedDims, name);
  const available = typed.length * perByte;
  if (strides === undefined) {
    if (Math.ceil(count / perByte) !== typed.length) {
      throw new IntFlashError(
        'ERR_SHAPE',
        `Expected ${name}.data to hold ${count} elements for dims [${judgedDims.join(', ')}], got ${available}`,
      );
    }
    return { type: type as DataType, dims: judgedDims, data: typed, strides: contiguousStrides(judgedDims) };
  }
  if (type === 'int4')
    throw new IntFlashError('ERR_UNSUPPORTED', `Expected ${name} of type int4 to be contiguous, got strides`);
  const judgedStrides = judgeIntegers(strides, name, 'strides');
  if (judgedStrides.length !== judgedDims.length) {
    throw new IntFlashError(
      'ERR_SHAPE',
      `Expected ${name}.strides to have ${judgedDims.length} entries like dims, got ${judgedStrides.length}`,
    );
  }
  const last = count === 0 ? -1 : judgedDims.reduce((sum, dim, axis) => sum + (dim - 1) * judgedStrides[axis]!, 0);
  if (!Number.isSafeInteger(last))
    throw new IntFlashError(
      'ERR_OVERFLOW',
      `Expected ${name}.strides to stay below 2^53, got [${judgedStrides.join(', ')}]`,
    );
  if (last >= typed.length) {
    throw new IntFlashError(
      'ERR_SHAPE',
      `Expected ${name}.data to hold element ${last} that its strides reach, got ${typed.length} elements`,
    );
  }
  return { type: type as DataType, dims: judgedDims, data: typed, strides: judgedStrides };
}

// Every call passes here: names are put together only for an error, and the loops make no garbage.
function judgeIntegers(value: unknown, name: string, field: string): number[] {
  if (!Array.isArray(value)) {
    throw new IntFlashError(
      'ERR_ARG_TYPE',
      `Expected ${name}.${field} to be an array of integers, got ${describe(value)}`,
    );
  }
  const count = value.length;
  if (count > 8)
    throw new IntFlashError('ERR_SHAPE', `Expected ${name}.${field} to have at most 8 entries, got ${count}`);
  const judged: number[] = [];
  for (let i = 0; i < count; i++) {
    const entry: unknown = value[i];
    if (typeof entry !== 'number' || !Number.isInteger(entry) || entry < 0) {
      throw new IntFlashError(
        'ERR_ARG_RANGE',
        `Expected ${name}.${field} to hold non-negative integers, got ${describe(entry)}`,
      );
    }
    judged.push(entry);
  }
  return judged;
}

function product(dims: readonly number[], name: string): number {
  let count = 1;
  for (const dim of dims) count *= dim;
  if (!Number.isSafeInteger(count)) {
    throw new IntFlashError(
      'ERR_OVERFLOW',
      `Expected ${name}.dims to multiply to less than 2^53, got [${dims.join(', ')}]`,
    );
  }
  return count;
}
