import { checkBuffer, IntFlashError, plainArray, typedArrayKind, wrongType } from '@int-flash/ops';
import { decodeUtf8, parseJsonText, quote } from './json-text.js';

/** Element types of the format, with their size in bytes. */
export const SAFETENSORS_DTYPE_BYTES = {
  BOOL: 1,
  U8: 1,
  I8: 1,
  F8_E5M2: 1,
  F8_E4M3: 1,
  U16: 2,
  I16: 2,
  F16: 2,
  BF16: 2,
  U32: 4,
  I32: 4,
  F32: 4,
  U64: 8,
  I64: 8,
  F64: 8,
} as const;

export type SafetensorsDtype = keyof typeof SAFETENSORS_DTYPE_BYTES;

/** Elements as Node can view them. F16, BF16 and the 8-bit floats are their bits. */
export type SafetensorsData =
  | Uint8Array
  | Int8Array
  | Uint16Array
  | Int16Array
  | Uint32Array
  | Int32Array
  | Float32Array
  | Float64Array
  | BigUint64Array
  | BigInt64Array;

interface ElementsKind {
  new (buffer: ArrayBufferLike, byteOffset: number, length: number): SafetensorsData;
  readonly name: string;
}

/** What the elements of each type are viewed as. */
export const SAFETENSORS_ARRAYS: Readonly<Record<SafetensorsDtype, ElementsKind>> = {
  BOOL: Uint8Array,
  U8: Uint8Array,
  I8: Int8Array,
  F8_E5M2: Uint8Array,
  F8_E4M3: Uint8Array,
  U16: Uint16Array,
  I16: Int16Array,
  F16: Uint16Array,
  BF16: Uint16Array,
  U32: Uint32Array,
  I32: Int32Array,
  F32: Float32Array,
  U64: BigUint64Array,
  I64: BigInt64Array,
  F64: Float64Array,
};

export interface SafetensorsTensor {
  readonly dtype: SafetensorsDtype;
  /** Row-major; `[]` is a scalar. */
  readonly shape: readonly number[];
  readonly data: SafetensorsData;
}

/** Where a tensor lies. */
export interface SafetensorsEntry {
  readonly name: string;
  readonly dtype: SafetensorsDtype;
  readonly shape: readonly number[];
  /** Byte offset in the file. */
  readonly offset: number;
  readonly byteLength: number;
}

export interface SafetensorsHeader {
  /** In the order of their bytes. */
  readonly entries: ReadonlyMap<string, SafetensorsEntry>;
  /** The `__metadata__` object. */
  readonly metadata: ReadonlyMap<string, string>;
  /** Byte offset of the first tensor: 8 + the header's length. */
  readonly dataOffset: number;
}

/** Bytes in front of the header: its length, little-endian. */
export const LENGTH_BYTES = 8;
/** 25 MB of JSON is already half a second of parsing. */
export const MAX_HEADER_BYTES = 25_000_000;
export const MAX_TENSORS = 100_000;
/** Same as a tensor of this library may have. */
const MAX_RANK = 8;

/**
 * Reads the header length.
 *
 * @param prefix First 8 bytes of the file.
 * @param fileSize Bytes of the whole file.
 * @throws {IntFlashError} `ERR_MODEL_FORMAT`, `ERR_MODEL_LIMIT`.
 */
export function readHeaderLength(prefix: Uint8Array, fileSize: number): number {
  if (prefix.length < LENGTH_BYTES || fileSize < LENGTH_BYTES) {
    throw formatError('header length', 0, `Expected a safetensors file of at least 8 bytes, got ${fileSize}`);
  }
  const length = new DataView(prefix.buffer, prefix.byteOffset, LENGTH_BYTES).getBigUint64(0, true);
  if (length > BigInt(MAX_HEADER_BYTES)) {
    throw limitError('header length', 0, `Expected a header of at most ${MAX_HEADER_BYTES} bytes, got ${length}`);
  }
  if (LENGTH_BYTES + Number(length) > fileSize) {
    throw formatError(
      'header length',
      0,
      `Expected the header to end inside the file of ${fileSize} bytes, got ${length}`,
    );
  }
  return Number(length);
}

/**
 * Judges a header: after this, every entry lies inside the file, no two overlap, and together they cover it to its last byte.
 *
 * @param header The JSON bytes after the length.
 * @param fileSize Bytes of the whole file.
 * @throws {IntFlashError} `ERR_MODEL_FORMAT`, `ERR_MODEL_LIMIT`, with `field` and `offset`.
 * @see https://github.com/huggingface/safetensors: the format.
 */
export function parseSafetensorsHeader(header: Uint8Array, fileSize: number): SafetensorsHeader {
  const source = {
    name: 'header',
    code: 'ERR_MODEL_FORMAT',
    limitCode: 'ERR_MODEL_LIMIT',
    offset: LENGTH_BYTES,
    maxKeys: MAX_TENSORS + 1, // + 1: __metadata__
    plainIntegers: true,
  } as const;
  if (header[0] !== 0x7b) {
    throw formatError('header', LENGTH_BYTES, `Expected the header to begin with "{", got byte ${header[0] ?? 'none'}`);
  }
  const root = parseJsonText(decodeUtf8(header, source), source) as Record<string, unknown>; // "{" can only begin an object
  const dataOffset = LENGTH_BYTES + header.length;
  const entries: SafetensorsEntry[] = [];
  let metadata: ReadonlyMap<string, string> = new Map();
  for (const [name, value] of Object.entries(root)) {
    if (name === '__metadata__') metadata = readMetadata(value);
    else entries.push(readEntry(name, value, dataOffset));
  }
  if (entries.length > MAX_TENSORS) {
    throw limitError('header', LENGTH_BYTES, `Expected at most ${MAX_TENSORS} tensors, got ${entries.length}`);
  }
  // Of two that begin alike the empty one comes first.
  entries.sort((a, b) => a.offset - b.offset || a.byteLength - b.byteLength);
  checkCoverage(entries, dataOffset, fileSize);
  return { entries: new Map(entries.map((entry) => [entry.name, entry])), metadata, dataOffset };
}

/**
 * Reads a whole file that is already in memory. The tensors are views of `bytes` where its alignment allows, else copies.
 *
 * @throws {IntFlashError} `ERR_MODEL_FORMAT`, `ERR_MODEL_LIMIT`, with `field` and `offset`; `ERR_ARG_TYPE`, `ERR_BUFFER_*`.
 */
export function readSafetensors(bytes: Uint8Array): Map<string, SafetensorsTensor> {
  if (typedArrayKind(bytes) !== 'Uint8Array') throw wrongType('bytes to be a Uint8Array', bytes); // a Buffer is one
  checkBuffer(bytes, 'bytes');
  const file = plainArray(bytes);
  const headerLength = readHeaderLength(file.subarray(0, LENGTH_BYTES), file.length);
  const header = parseSafetensorsHeader(file.subarray(LENGTH_BYTES, LENGTH_BYTES + headerLength), file.length);
  const tensors = new Map<string, SafetensorsTensor>();
  for (const { name, dtype, shape, offset, byteLength } of header.entries.values()) {
    tensors.set(name, { dtype, shape, data: viewElements(file.subarray(offset, offset + byteLength), dtype) });
  }
  return tensors;
}

/** Views little-endian `bytes` as elements, copying them first if they lie at an odd address. */
export function viewElements(bytes: Uint8Array, dtype: SafetensorsDtype): SafetensorsData {
  const size = SAFETENSORS_DTYPE_BYTES[dtype];
  const aligned = bytes.byteOffset % size === 0 ? bytes : new Uint8Array(bytes); // a Buffer's slice() would be a view
  return new SAFETENSORS_ARRAYS[dtype](aligned.buffer, aligned.byteOffset, aligned.byteLength / size);
}

function readMetadata(value: unknown): ReadonlyMap<string, string> {
  const entries = isObject(value) ? Object.entries(value) : undefined;
  if (!entries?.every((entry): entry is [string, string] => typeof entry[1] === 'string')) {
    throw formatError(
      '__metadata__',
      LENGTH_BYTES,
      'Expected __metadata__ to map strings to strings, got another value',
    );
  }
  return new Map(entries);
}

function readEntry(name: string, value: unknown, dataOffset: number): SafetensorsEntry {
  const field = `tensors.${name.slice(0, 120)}`;
  if (!isObject(value)) {
    throw formatError(field, LENGTH_BYTES, `Expected tensor ${quote(name)} to be an object, got another value`);
  }
  const { dtype, shape, data_offsets: span, ...rest } = value;
  const unknownKey = Object.keys(rest)[0];
  if (unknownKey !== undefined) {
    throw formatError(
      field,
      LENGTH_BYTES,
      `Expected tensor ${quote(name)} without a key ${quote(unknownKey)}, got one`,
    );
  }
  if (typeof dtype !== 'string' || !Object.hasOwn(SAFETENSORS_DTYPE_BYTES, dtype)) {
    const known = Object.keys(SAFETENSORS_DTYPE_BYTES).join(', ');
    const got = typeof dtype === 'string' ? quote(dtype) : typeof dtype;
    throw formatError(
      `${field}.dtype`,
      LENGTH_BYTES,
      `Expected the dtype of ${quote(name)} to be one of ${known}, got ${got}`,
    );
  }
  if (!Array.isArray(shape) || !shape.every(isCount)) {
    throw formatError(
      `${field}.shape`,
      LENGTH_BYTES,
      `Expected the shape of ${quote(name)} to hold integers from 0 to 2^53 - 1`,
    );
  }
  if (shape.length > MAX_RANK) {
    throw limitError(
      `${field}.shape`,
      LENGTH_BYTES,
      `Expected ${quote(name)} of rank ${MAX_RANK} at most, got ${shape.length}`,
    );
  }
  if (!isSpan(span) || !isCount(dataOffset + span[1])) {
    throw formatError(
      `${field}.data_offsets`,
      LENGTH_BYTES,
      `Expected the data_offsets of ${quote(name)} to be two integers from 0 to 2^53 - 1`,
    );
  }
  const [begin, end] = span;
  const needed = byteCount(shape, SAFETENSORS_DTYPE_BYTES[dtype as SafetensorsDtype]);
  if (needed === undefined || end - begin !== needed) {
    throw formatError(
      `${field}.data_offsets`,
      dataOffset + begin,
      `Expected ${quote(name)} to span ${needed ?? 'less than 2^53'} bytes for ${dtype} [${shape.join(', ')}], got ${end - begin}`,
    );
  }
  return { name, dtype: dtype as SafetensorsDtype, shape, offset: dataOffset + begin, byteLength: needed };
}

/** `undefined` when the product leaves the safe integers. */
function byteCount(shape: readonly number[], elementBytes: number): number | undefined {
  if (shape.includes(0)) return 0;
  let bytes = elementBytes;
  for (const dim of shape) {
    bytes *= dim;
    if (!Number.isSafeInteger(bytes)) return undefined;
  }
  return bytes;
}

function checkCoverage(entries: readonly SafetensorsEntry[], dataOffset: number, fileSize: number): void {
  let covered = dataOffset;
  for (const { name, offset, byteLength } of entries) {
    if (offset !== covered) {
      const fault = offset < covered ? 'an overlap' : 'a gap';
      throw formatError(
        `tensors.${name.slice(0, 120)}.data_offsets`,
        offset,
        `Expected ${quote(name)} to begin at byte ${covered}, where the one before it ends, got ${fault} at ${offset}`,
      );
    }
    covered += byteLength;
  }
  if (covered !== fileSize) {
    throw formatError(
      'tensors',
      Math.min(covered, fileSize),
      `Expected the tensors to end with the file at byte ${fileSize}, got ${covered}`,
    );
  }
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function isSpan(value: unknown): value is [number, number] {
  return Array.isArray(value) && value.length === 2 && value.every(isCount);
}

export function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}

function formatError(field: string, offset: number, message: string): IntFlashError {
  return new IntFlashError('ERR_MODEL_FORMAT', message, { field, offset });
}

function limitError(field: string, offset: number, message: string): IntFlashError {
  return new IntFlashError('ERR_MODEL_LIMIT', message, { field, offset });
}
