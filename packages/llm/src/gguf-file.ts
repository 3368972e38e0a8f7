import type { FileHandle } from 'node:fs/promises';
import { basename } from 'node:path';
import { IntFlashError } from '@int-flash/ops';
import { dequantizeGgml, READABLE_GGML_TYPES, type ReadableGgmlType } from './ggml-types.js';
import { type GgufEntry, type GgufHeader, parseGgufHeader } from './gguf-header.js';
import { MAX_GGUF_HEADER_BYTES, NeedsMoreBytes, screenGguf } from './gguf-screen.js';
import { openForReading } from './json-file.js';
import { quote } from './json-text.js';
import { type ReadOptions, readExactly } from './read-exactly.js';

const FIRST_BYTES = 2 ** 20;

/** An open GGUF file: its header in memory, its tensors read on demand. */
export class GgufFile {
  readonly #file: FileHandle;
  /** Without folders, for messages. */
  readonly name: string;
  /** Fixed at open. */
  readonly byteLength: number;
  readonly header: GgufHeader;

  private constructor(file: FileHandle, name: string, byteLength: number, header: GgufHeader) {
    this.#file = file;
    this.name = name;
    this.byteLength = byteLength;
    this.header = header;
  }

  /**
   * Opens read-only and judges the header.
   *
   * @throws {IntFlashError} `ERR_MODEL_FORMAT`, `ERR_MODEL_LIMIT`, `ERR_UNSUPPORTED`, with the field and, where it has one, its offset.
   */
  static async open(path: string, options: ReadOptions = {}): Promise<GgufFile> {
    options.signal?.throwIfAborted();
    const name = basename(path);
    const file = await openForReading(path, name, 'ERR_MODEL_FORMAT');
    if (!file) throw new IntFlashError('ERR_MODEL_FORMAT', `Expected a file ${name}, got none`, { field: name });
    try {
      const { size } = await file.stat();
      return new GgufFile(file, name, size, await readHeader(file, name, size, options));
    } catch (error) {
      await file.close();
      throw error;
    }
  }

  entry(name: string): GgufEntry | undefined {
    return this.header.entries.get(name);
  }

  /** The bytes of a tensor, in memory of its own. */
  readBytes({ offset, byteLength }: GgufEntry, options: ReadOptions = {}): Promise<Uint8Array> {
    return readExactly(this.#file, this.name, offset, byteLength, options);
  }

  /**
   * A tensor as float32.
   * @throws {IntFlashError} `ERR_UNSUPPORTED` for a quantization that cannot be read.
   */
  async readFloats(entry: GgufEntry, options: ReadOptions = {}): Promise<Float32Array> {
    const type = entry.type.name as ReadableGgmlType;
    if (!READABLE_GGML_TYPES.includes(type)) {
      throw new IntFlashError(
        'ERR_UNSUPPORTED',
        `Expected ${quote(entry.name)} as ${READABLE_GGML_TYPES.join(', ')}, got ${entry.type.name}`,
        { field: `tensors.${entry.name.slice(0, 120)}.type` },
      );
    }
    return dequantizeGgml(type, await this.readBytes(entry, options));
  }

  close(): Promise<void> {
    return this.#file.close();
  }
}

async function readHeader(file: FileHandle, name: string, size: number, options: ReadOptions): Promise<GgufHeader> {
  const longest = Math.min(size, MAX_GGUF_HEADER_BYTES);
  for (let length = Math.min(FIRST_BYTES, longest); ; ) {
    const bytes = await readExactly(file, name, 0, length, options);
    const screened = screenGguf(bytes, size);
    if (!(screened instanceof NeedsMoreBytes)) return parseGgufHeader(bytes.subarray(0, screened.headerEnd), size);
    length = Math.min(Math.max(4 * length, screened.upTo), longest);
  }
}
