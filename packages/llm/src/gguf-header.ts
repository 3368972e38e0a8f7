import { type GGUFTypedMetadata, GGUFValueType, gguf } from '@huggingface/gguf';
import { IntFlashError } from '@int-flash/ops';
import { GGML_TYPES, type GgmlType } from './ggml-types.js';
import { quote } from './json-text.js';

export type GgufValue = number | bigint | string | boolean | readonly (number | bigint | string | boolean)[];

export interface GgufEntry {
  readonly name: string;
  readonly type: GgmlType;
  /** Row-major: the file has its dimensions the other way round. */
  readonly shape: readonly number[];
  /** Byte offset in the file. */
  readonly offset: number;
  readonly byteLength: number;
}

export interface GgufHeader {
  readonly metadata: ReadonlyMap<string, GgufValue>;
  /** In the order of the file. */
  readonly entries: ReadonlyMap<string, GgufEntry>;
}

const ALIGNMENT = 'general.alignment';
const DEFAULT_ALIGNMENT = 32;
const MAX_ALIGNMENT = 2 ** 16;
/** What the library adds of its own. */
const COUNTS = new Set(['version', 'tensor_count', 'kv_count']);

/**
 * Reads a header that `screenGguf` has walked.
 *
 * @param bytes    The header, to its end.
 * @param fileSize Of the whole file.
 * @throws {IntFlashError} `ERR_MODEL_FORMAT` (names twice, spans that overlap or leave the file, odd alignment), `ERR_UNSUPPORTED` (a
 *   tensor type that is not known).
 */
export async function parseGgufHeader(bytes: Uint8Array, fileSize: number): Promise<GgufHeader> {
  const { typedMetadata, tensorInfos } = await callLibrary(bytes);
  const metadata = new Map<string, GgufValue>();
  for (const [key, { value }] of Object.entries(typedMetadata)) {
    if (!COUNTS.has(key)) metadata.set(key, value as GgufValue);
  }
  if (BigInt(metadata.size) !== typedMetadata.kv_count.value) {
    // A key named as one of the library's counts, or `__proto__`.
    throw fault('metadata', `Expected ${typedMetadata.kv_count.value} keys of its own, got ${metadata.size}`);
  }
  const alignment = readAlignment(typedMetadata);
  const dataOffset = Math.ceil(bytes.length / alignment) * alignment;
  const entries = new Map<string, GgufEntry>();
  for (const info of tensorInfos) {
    if (entries.has(info.name)) throw fault(info.name, `Expected unique tensors, got ${quote(info.name)} twice`);
    entries.set(info.name, readEntry(info, { alignment, dataOffset, fileSize }));
  }
  checkOverlap([...entries.values()]);
  return { metadata, entries };
}

type LibraryTensor = Awaited<ReturnType<typeof gguf>>['tensorInfos'][number];

function readEntry(
  { name, shape: reversed, dtype, offset }: LibraryTensor,
  file: { readonly alignment: number; readonly dataOffset: number; readonly fileSize: number },
): GgufEntry {
  const type = GGML_TYPES[dtype];
  if (!type) {
    throw new IntFlashError('ERR_UNSUPPORTED', `Expected a known type of tensor ${quote(name)}, got number ${dtype}`, {
      field: name.slice(0, 120),
    });
  }
  const shape = reversed.map(Number).reverse();
  if (shape.some((size) => size < 1)) {
    throw fault(name, `Expected ${quote(name)} to have dimensions of at least 1, got [${shape.join(', ')}]`);
  }
  const elements = reversed.reduce((product, size) => product * size, 1n);
  if (shape.at(-1)! % type.elements !== 0) {
    throw fault(
      name,
      `Expected rows of ${quote(name)} to be whole blocks of ${type.elements}, as ${type.name} has them, got ${shape.at(-1)}`,
    );
  }
  if (offset % BigInt(file.alignment) !== 0n) {
    throw fault(name, `Expected ${quote(name)} at a multiple of ${file.alignment} bytes, got ${offset}`);
  }
  const byteLength = (elements / BigInt(type.elements)) * BigInt(type.bytes);
  const end = BigInt(file.dataOffset) + offset + byteLength;
  if (end > BigInt(file.fileSize)) {
    throw fault(name, `Expected ${quote(name)} to end inside the file of ${file.fileSize} bytes, got ${end}`);
  }
  return { name, type, shape, offset: file.dataOffset + Number(offset), byteLength: Number(byteLength) };
}

function readAlignment(metadata: GGUFTypedMetadata): number {
  const found = (metadata as Record<string, { value: unknown; type: GGUFValueType } | undefined>)[ALIGNMENT];
  if (!found) return DEFAULT_ALIGNMENT;
  const { value, type } = found;
  const isPower = typeof value === 'number' && value >= 1 && value <= MAX_ALIGNMENT && (value & (value - 1)) === 0;
  if (type !== GGUFValueType.UINT32 || !isPower) {
    throw fault(ALIGNMENT, `Expected ${ALIGNMENT} to be a power of two up to ${MAX_ALIGNMENT} as uint32, got ${value}`);
  }
  return value;
}

function checkOverlap(entries: readonly GgufEntry[]): void {
  const ordered = [...entries].sort((a, b) => a.offset - b.offset);
  for (const [i, entry] of ordered.entries()) {
    const next = ordered[i + 1];
    if (next && entry.offset + entry.byteLength > next.offset) {
      throw fault(
        next.name,
        `Expected tensors apart from each other, got ${quote(next.name)} inside ${quote(entry.name)}`,
      );
    }
  }
}

const NO_SUCH_HOST = 'http://gguf.invalid/'; // the library reads what `fetch` gives, and asks nobody

async function callLibrary(bytes: Uint8Array) {
  const fetchPart = async (_url: unknown, init?: { readonly headers?: unknown }) => {
    const { Range: range } = init!.headers as { readonly Range: string };
    const [, from, last] = /^bytes=(\d+)-(\d+)$/.exec(range)!;
    return {
      headers: { get: () => null },
      arrayBuffer: async () => new Uint8Array(bytes.subarray(Number(from), Number(last) + 1)).buffer, // a copy
    };
  };
  try {
    return await gguf(NO_SUCH_HOST, { fetch: fetchPart as unknown as typeof fetch, typedMetadata: true });
  } catch (cause) {
    throw new IntFlashError('ERR_MODEL_FORMAT', 'Expected a GGUF header that can be read, got one that cannot', {
      cause,
    });
  }
}

function fault(field: string, message: string): IntFlashError {
  return new IntFlashError('ERR_MODEL_FORMAT', message, { field: field.slice(0, 120) });
}
