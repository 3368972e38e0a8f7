import {
  checkBuffer,
  hostArray,
  IntFlashError,
  plainArray,
  readArguments,
  typedArrayKind,
  wrongType,
} from '@int-flash/ops';
import { checkJsonObject } from './file-arguments.js';
import { quote } from './json-text.js';
import {
  isCount,
  MAX_HEADER_BYTES,
  parseSafetensorsHeader,
  SAFETENSORS_ARRAYS,
  SAFETENSORS_DTYPE_BYTES,
  type SafetensorsDtype,
  type SafetensorsTensor,
} from './safetensors.js';

/** A tensor to be written, without its data. */
export interface TensorOutline {
  readonly name: string;
  readonly dtype: SafetensorsDtype;
  readonly shape: readonly number[];
}

export interface SafetensorsPlan {
  /** Length, header and padding: the first bytes of the file. */
  readonly prefix: Uint8Array;
  /** Names in the order in which the data must follow. */
  readonly order: readonly string[];
  readonly byteLength: number;
}

/**
 * Lays out a file. The same tensors give the same bytes whatever order they come in: wide elements first, then by name, so that
 * every tensor is aligned to its element; the header is padded with spaces to a multiple of 8.
 *
 * @throws {IntFlashError} `ERR_MODEL_FORMAT`, `ERR_MODEL_LIMIT`: what a reader would refuse is not written.
 */
export function planSafetensors(
  tensors: readonly TensorOutline[],
  metadata: Readonly<Record<string, string>> = {},
): SafetensorsPlan {
  const sorted = [...tensors].sort(
    (a, b) =>
      SAFETENSORS_DTYPE_BYTES[b.dtype] - SAFETENSORS_DTYPE_BYTES[a.dtype] ||
      (a.name < b.name ? -1 : a.name > b.name ? 1 : 0),
  );
  const parts: string[] = [];
  const metadataKeys = Object.keys(metadata).sort();
  if (metadataKeys.length > 0) {
    parts.push(`"__metadata__":${JSON.stringify(Object.fromEntries(metadataKeys.map((key) => [key, metadata[key]])))}`);
  }
  let end = 0;
  for (const { name, dtype, shape } of sorted) {
    const begin = end;
    end += byteLengthOf({ name, dtype, shape });
    parts.push(`${JSON.stringify(name)}:${JSON.stringify({ dtype, shape, data_offsets: [begin, end] })}`);
  }
  const json = new TextEncoder().encode(`{${parts.join(',')}}`);
  const headerLength = Math.ceil(json.length / 8) * 8;
  if (headerLength > MAX_HEADER_BYTES) {
    throw new IntFlashError(
      'ERR_MODEL_LIMIT',
      `Expected a header of at most ${MAX_HEADER_BYTES} bytes, got ${headerLength}`,
    );
  }
  const prefix = new Uint8Array(8 + headerLength).fill(0x20);
  new DataView(prefix.buffer).setBigUint64(0, BigInt(headerLength), true);
  prefix.set(json, 8);
  const byteLength = prefix.length + end;
  parseSafetensorsHeader(prefix.subarray(8), byteLength); // duplicate names, ranks: the reader is the judge
  return { prefix, order: sorted.map(({ name }) => name), byteLength };
}

/**
 * Makes a whole file in memory.
 *
 * @throws {IntFlashError} `ERR_MODEL_FORMAT`, `ERR_MODEL_LIMIT`: what a reader would refuse is not written; `ERR_SHAPE` where data has
 *   another size than its shape; `ERR_ARG_TYPE`, `ERR_BUFFER_*`, `ERR_OOM`.
 */
export function writeSafetensors(
  tensors: ReadonlyMap<string, SafetensorsTensor>,
  metadata?: Readonly<Record<string, string>>,
): Uint8Array {
  const judged = readArguments(() => judgeTensors(tensors));
  const plan = planSafetensors(
    [...judged].map(([name, { dtype, shape }]) => ({ name, dtype, shape })),
    metadata === undefined ? undefined : readArguments(() => judgeMetadata(metadata)),
  );
  const parts = plan.order.map((name) => tensorBytes(name, judged.get(name)!)); // sizes are judged before memory is asked for
  const file = hostArray(Uint8Array, plan.byteLength, 'a safetensors file');
  file.set(plan.prefix);
  let at = plan.prefix.length;
  for (const bytes of parts) {
    file.set(bytes, at);
    at += bytes.length;
  }
  return file;
}

/** JSON would drop some values, and ask others what to write. */
function judgeMetadata(metadata: unknown): Record<string, string> {
  const judged = Object.entries(checkJsonObject(metadata, 'metadata')).map(([key, value]): [string, string] => {
    if (typeof value !== 'string') throw wrongType(`metadata ${quote(key)} to be a string`, value);
    return [key, value];
  });
  return Object.fromEntries(judged);
}

/** Types alone: sizes and names are the reader's to judge. */
function judgeTensors(tensors: unknown): Map<string, SafetensorsTensor> {
  const { get, [Symbol.iterator]: iterate } = (tensors ?? {}) as Partial<ReadonlyMap<string, unknown>>;
  if (typeof get !== 'function' || typeof iterate !== 'function') {
    throw wrongType('tensors to be a Map of tensors by name', tensors);
  }
  const judged = new Map<string, SafetensorsTensor>();
  for (const [name, tensor] of tensors as ReadonlyMap<unknown, unknown>) {
    if (typeof name !== 'string') throw wrongType('the names of tensors to be strings', name);
    judged.set(name, judgeTensor(name, tensor));
  }
  return judged;
}

function judgeTensor(name: string, tensor: unknown): SafetensorsTensor {
  const { dtype, shape, data } = checkJsonObject(tensor, `tensor ${quote(name)}`);
  if (typeof dtype !== 'string') throw wrongType(`the dtype of ${quote(name)} to be a string`, dtype);
  if (!Array.isArray(shape)) throw wrongType(`the shape of ${quote(name)} to be an array`, shape);
  const kind = Object.hasOwn(SAFETENSORS_ARRAYS, dtype)
    ? SAFETENSORS_ARRAYS[dtype as SafetensorsDtype].name
    : undefined;
  const given = typedArrayKind(data);
  if (given === undefined || given !== (kind ?? given)) {
    throw wrongType(`the data of ${quote(name)} to be a ${kind ?? 'typed array'}, as ${dtype} has it`, data);
  }
  checkBuffer(data as ArrayBufferView, quote(name));
  return {
    dtype,
    shape: judgeDims(name, shape),
    data: plainArray(data),
  } as unknown as SafetensorsTensor;
}

function judgeDims(name: string, shape: readonly unknown[]): number[] {
  return [...shape].map((dim) => {
    if (typeof dim !== 'number') throw wrongType(`the shape of ${quote(name)} to hold numbers`, dim);
    if (!isCount(dim)) {
      const expected = `Expected the shape of ${quote(name)} to hold integers from 0 to 2^53 - 1`;
      throw new IntFlashError('ERR_SHAPE', `${expected}, got ${dim}`);
    }
    return dim;
  });
}

/**
 * Writes tensor after tensor, so that only one is in memory at a time.
 *
 * @param append writes bytes behind those before.
 */
export async function writeSafetensorsFile(
  append: (bytes: Uint8Array) => Promise<void>,
  plan: SafetensorsPlan,
  makeTensor: (name: string) => Promise<SafetensorsTensor>,
): Promise<void> {
  await append(plan.prefix);
  for (const name of plan.order) await append(tensorBytes(name, await makeTensor(name)));
}

function byteLengthOf({ shape, dtype }: TensorOutline): number {
  return shape.reduce((product, dim) => product * dim, SAFETENSORS_DTYPE_BYTES[dtype]);
}

/** The bytes of a tensor; its memory is little-endian on every machine Node runs INT8 kernels on. */
function tensorBytes(name: string, tensor: SafetensorsTensor): Uint8Array {
  const { data } = tensor;
  const wanted = byteLengthOf({ name, ...tensor });
  if (data.byteLength !== wanted) {
    throw new IntFlashError('ERR_SHAPE', `Expected ${wanted} bytes for ${quote(name)}, got ${data.byteLength}`);
  }
  return new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
}
