import { IntFlashError } from '@int-flash/ops';
import { decodeUtf8 } from './json-text.js';

/** Bytes of a metadata value by its type: u8, i8, u16, i16, u32, i32, f32, bool, string, array, u64, i64, f64. */
const VALUE_BYTES = [1, 1, 2, 2, 4, 4, 4, 1, undefined, undefined, 8, 8, 8] as const;
const STRING = 8;
const ARRAY = 9;

const MAGIC = 0x46554747; // "GGUF", little-endian
const VERSIONS = [2, 3]; // 1 had 32-bit lengths, for some weeks of 2023
const MAX_KEYS = 10_000;
const MAX_TENSORS = 100_000;
const MAX_KEY_BYTES = 256;
const MAX_NAME_BYTES = 256; // ggml itself has 64
const MAX_STRING_BYTES = 2 ** 23; // a tokenizer.json inside
const MAX_ARRAY_LENGTH = 2 ** 20;
const MAX_RANK = 4;
/** Vocabulary and merges of 256k tokens take about 12 MB. */
export const MAX_GGUF_HEADER_BYTES = 2 ** 25;

const MIN_KEY_BYTES = 8 + 1 + 4 + 1;
const MIN_TENSOR_BYTES = 8 + 1 + 4 + 4 + 8;

/** More of the file is needed to tell. */
export class NeedsMoreBytes {
  constructor(readonly upTo: number) {}
}

/**
 * Walks a GGUF header before the library reads it, which believes every length in it: counts, lengths and types must fit into the file and
 * under the limits, keys must be unique.
 *
 * @param bytes    The file's beginning.
 * @param fileSize Of the whole file.
 * @returns the header's end, or what is missing to find it.
 * @throws {IntFlashError} `ERR_MODEL_FORMAT`, `ERR_MODEL_LIMIT`, `ERR_UNSUPPORTED` with `field` and `offset`.
 */
export function screenGguf(bytes: Uint8Array, fileSize: number): { headerEnd: number } | NeedsMoreBytes {
  try {
    return { headerEnd: walk(new Cursor(bytes, fileSize)) };
  } catch (error) {
    if (error instanceof NeedsMoreBytes) return error;
    throw error;
  }
}

function walk(cursor: Cursor): number {
  if (cursor.fileSize < 4 || cursor.uint32('the magic number') !== MAGIC) {
    throw cursor.fault('Expected a GGUF file, which begins with "GGUF", got another', 'magic', 0);
  }
  const version = cursor.uint32('version');
  if (!VERSIONS.includes(version)) {
    const big = version > 0xffff ? ', or a big-endian file' : '';
    throw new IntFlashError('ERR_UNSUPPORTED', `Expected GGUF version 2 or 3, got ${version}${big}`, {
      field: 'version',
      offset: 4,
    });
  }
  const tensors = cursor.count('tensor_count', MAX_TENSORS, MIN_TENSOR_BYTES);
  const keys = cursor.count('kv_count', MAX_KEYS, MIN_KEY_BYTES);
  const seen = new Set<string>();
  for (let i = 0; i < keys; i++) {
    const at = cursor.offset;
    const key = cursor.string(`key ${i}`, MAX_KEY_BYTES);
    if (key === '') throw cursor.fault(`Expected key ${i} to have a name, got none`, 'metadata', at);
    if (seen.has(key)) throw cursor.fault(`Expected unique keys, got ${JSON.stringify(key)} twice`, key, at);
    seen.add(key);
    walkValue(cursor, cursor.uint32(`the type of ${key}`), key);
  }
  for (let i = 0; i < tensors; i++) {
    const name = cursor.string(`the name of tensor ${i}`, MAX_NAME_BYTES);
    const at = cursor.offset;
    const rank = cursor.uint32(`the rank of ${name}`);
    if (rank < 1 || rank > MAX_RANK) {
      throw cursor.fault(`Expected 1 to ${MAX_RANK} dimensions of ${JSON.stringify(name)}, got ${rank}`, name, at);
    }
    cursor.skip(8 * rank + 4 + 8, name); // dimensions, type, offset: judged from what the library reads
  }
  return cursor.offset;
}

function walkValue(cursor: Cursor, type: number, key: string): void {
  const size = VALUE_BYTES[type];
  if (size !== undefined) cursor.skip(size, key);
  else if (type === STRING) cursor.skipString(key, MAX_STRING_BYTES);
  else if (type === ARRAY) walkArray(cursor, key);
  else throw cursor.fault(`Expected a known type of ${JSON.stringify(key)}, got ${type}`, key, cursor.offset - 4);
}

function walkArray(cursor: Cursor, key: string): void {
  const elementType = cursor.uint32(`the element type of ${key}`);
  const elementSize = VALUE_BYTES[elementType];
  if (elementSize === undefined && elementType !== STRING) {
    throw cursor.fault(
      `Expected ${JSON.stringify(key)} to hold numbers or strings, got type ${elementType}`,
      key,
      cursor.offset - 4,
    );
  }
  const length = cursor.count(key, MAX_ARRAY_LENGTH, elementSize ?? 8);
  if (elementSize !== undefined) cursor.skip(length * elementSize, key);
  else for (let i = 0; i < length; i++) cursor.skipString(key, MAX_STRING_BYTES);
}

/** Reads forward and never past the file. */
class Cursor {
  readonly #view: DataView;
  offset = 0;

  constructor(
    private readonly bytes: Uint8Array,
    readonly fileSize: number,
  ) {
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  }

  uint32(field: string): number {
    const at = this.offset;
    this.skip(4, field);
    return this.#view.getUint32(at, true);
  }

  /** A 64-bit count of things that take at least `bytesEach`. */
  count(field: string, max: number, bytesEach: number): number {
    const at = this.offset;
    this.skip(8, field);
    const value = this.#view.getBigUint64(at, true);
    const left = this.fileSize - this.offset;
    if (value > BigInt(Math.floor(left / bytesEach))) {
      throw this.fault(`Expected ${field} to fit into the ${left} bytes that are left, got ${value}`, field, at);
    }
    if (value > BigInt(max)) {
      throw new IntFlashError('ERR_MODEL_LIMIT', `Expected ${field} to be at most ${max}, got ${value}`, {
        field,
        offset: at,
      });
    }
    return Number(value);
  }

  string(field: string, maxBytes: number): string {
    const [from, to] = this.skipString(field, maxBytes);
    return decodeUtf8(this.bytes.subarray(from, to), {
      name: field,
      code: 'ERR_MODEL_FORMAT',
      limitCode: 'ERR_MODEL_LIMIT',
      offset: from,
    });
  }

  skipString(field: string, maxBytes: number): [from: number, to: number] {
    const length = this.count(field, maxBytes, 1);
    const from = this.offset;
    this.skip(length, field);
    return [from, this.offset];
  }

  skip(bytes: number, field: string): void {
    const end = this.offset + bytes;
    if (end > this.fileSize) {
      throw this.fault(
        `Expected ${field} to end inside the file of ${this.fileSize} bytes, got ${end}`,
        field,
        this.offset,
      );
    }
    if (end > MAX_GGUF_HEADER_BYTES) {
      throw new IntFlashError(
        'ERR_MODEL_LIMIT',
        `Expected a header of at most ${MAX_GGUF_HEADER_BYTES} bytes, got more`,
        {
          field,
          offset: this.offset,
        },
      );
    }
    if (end > this.bytes.length) throw new NeedsMoreBytes(end);
    this.offset = end;
  }

  fault(message: string, field: string, offset: number): IntFlashError {
    return new IntFlashError('ERR_MODEL_FORMAT', message, { field: field.slice(0, 120), offset });
  }
}
