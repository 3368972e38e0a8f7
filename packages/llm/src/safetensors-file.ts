import type { FileHandle } from 'node:fs/promises';
import { basename } from 'node:path';
import { IntFlashError, wrongType } from '@int-flash/ops';
import { checkPath, checkReadOptions } from './file-arguments.js';
import { openForReading } from './json-file.js';
import { quote } from './json-text.js';
import { type ReadOptions, readExactly } from './read-exactly.js';
import {
  LENGTH_BYTES,
  parseSafetensorsHeader,
  readHeaderLength,
  type SafetensorsEntry,
  type SafetensorsHeader,
  type SafetensorsTensor,
  viewElements,
} from './safetensors.js';

/** An open safetensors file: its header in memory, its tensors read on demand. */
export class SafetensorsFile {
  readonly #file: FileHandle;
  /** Without folders, for messages. */
  readonly name: string;
  /** Fixed at open: a file that shrinks afterwards is an error, one that grows is read as it was. */
  readonly byteLength: number;
  readonly header: SafetensorsHeader;

  private constructor(file: FileHandle, name: string, byteLength: number, header: SafetensorsHeader) {
    this.#file = file;
    this.name = name;
    this.byteLength = byteLength;
    this.header = header;
  }

  /**
   * Opens read-only and judges the header.
   *
   * @throws {IntFlashError} `ERR_MODEL_FORMAT`, `ERR_MODEL_LIMIT`, with the field and its byte offset; `ERR_ARG_*`.
   */
  static async open(path: string, options: ReadOptions = {}): Promise<SafetensorsFile> {
    checkPath(path, 'the file');
    const { signal } = checkReadOptions(options, 'onBytes');
    signal?.throwIfAborted();
    const name = basename(path);
    const file = await openForReading(path, name, 'ERR_MODEL_FORMAT');
    if (!file)
      throw new IntFlashError('ERR_MODEL_FORMAT', `Expected the model folder to hold ${name}, got none`, {
        field: name,
      });
    try {
      const { size } = await file.stat();
      const prefix = await readExactly(file, name, 0, Math.min(LENGTH_BYTES, size), { signal });
      const headerLength = readHeaderLength(prefix, size);
      const header = parseSafetensorsHeader(
        await readExactly(file, name, LENGTH_BYTES, headerLength, { signal }),
        size,
      );
      return new SafetensorsFile(file, name, size, header);
    } catch (error) {
      await file.close();
      throw error;
    }
  }

  /**
   * Reads one tensor into memory of its own.
   *
   * @throws {IntFlashError} `ERR_MODEL_FORMAT` (no such tensor, or the file shrank), `ERR_OOM`. Rejects with `signal.reason`.
   */
  async read(name: string, options: ReadOptions = {}): Promise<SafetensorsTensor> {
    const { dtype, shape, offset, byteLength } = this.entry(name);
    const bytes = await readExactly(this.#file, this.name, offset, byteLength, checkReadOptions(options, 'onBytes'));
    return { dtype, shape, data: viewElements(bytes, dtype) };
  }

  entry(name: string): SafetensorsEntry {
    if (typeof name !== 'string') throw wrongType('the name of a tensor', name);
    const entry = this.header.entries.get(name);
    if (!entry) {
      throw new IntFlashError('ERR_MODEL_FORMAT', `Expected ${this.name} to hold ${quote(name)}, got no such tensor`, {
        field: `tensors.${name}`,
      });
    }
    return entry;
  }

  close(): Promise<void> {
    return this.#file.close();
  }
}
