import { constants } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import { join } from 'node:path';
import { type ErrorCode, IntFlashError } from '@int-flash/ops';
import { decodeUtf8, type JsonSource, parseJsonText, quote } from './json-text.js';

export type JsonObject = Readonly<Record<string, unknown>>;

/** Which error codes a file's faults carry, and how large it may be. */
export interface JsonFileRules extends Omit<JsonSource, 'name' | 'offset'> {
  readonly maxBytes: number;
}

export const MODEL_JSON: JsonFileRules = { code: 'ERR_MODEL_FORMAT', limitCode: 'ERR_MODEL_LIMIT', maxBytes: 2 ** 24 };

/**
 * Reads a JSON object from a file of a model folder.
 *
 * @returns `undefined` when the file is absent.
 * @throws {IntFlashError} `rules.code` (not a file, not UTF-8, not JSON, not an object), `rules.limitCode` (too large, too deep).
 */
export async function readJsonFile(
  folder: string,
  name: string,
  rules: JsonFileRules,
): Promise<JsonObject | undefined> {
  const bytes = await readSmallFile(folder, name, rules);
  if (bytes === undefined) return undefined;
  const source = { ...rules, name };
  const value = parseJsonText(decodeUtf8(bytes, source), source);
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw new IntFlashError(rules.code, `Expected ${name} to hold a JSON object, got another value`, { field: name });
  }
  return value as JsonObject;
}

/** Like {@link readJsonFile}, but the file must be there. */
export async function requireJsonFile(folder: string, name: string, rules: JsonFileRules): Promise<JsonObject> {
  const value = await readJsonFile(folder, name, rules);
  if (value === undefined) {
    throw new IntFlashError(rules.code, `Expected the model folder to hold ${name}, got none in ${quote(folder)}`, {
      field: name,
      hint: 'Give a folder on this machine in Hugging Face format: config.json, tokenizer.json and *.safetensors.',
    });
  }
  return value;
}

/** All bytes of a small file, or `undefined` when it is absent. */
export async function readSmallFile(
  folder: string,
  name: string,
  rules: JsonFileRules,
): Promise<Uint8Array | undefined> {
  const file = await openForReading(join(folder, name), name, rules.code);
  if (file === undefined) return undefined;
  try {
    const { size } = await file.stat();
    if (size > rules.maxBytes) {
      throw new IntFlashError(rules.limitCode, `Expected ${name} of at most ${rules.maxBytes} bytes, got ${size}`, {
        field: name,
      });
    }
    const bytes = new Uint8Array(size);
    let filled = 0;
    while (filled < size) {
      const { bytesRead } = await file.read(bytes, filled, size - filled, filled);
      if (bytesRead === 0) {
        throw new IntFlashError(rules.code, `Expected ${name} to keep its ${size} bytes, got ${filled}`, {
          field: name,
        });
      }
      filled += bytesRead;
    }
    return bytes;
  } finally {
    await file.close();
  }
}

/** Opens a regular file read-only; `undefined` when there is none. The operating system's message, which has the path, is the cause. */
export async function openForReading(path: string, name: string, code: ErrorCode): Promise<FileHandle | undefined> {
  let file: FileHandle;
  try {
    file = await open(path, constants.O_RDONLY | (constants.O_NONBLOCK ?? 0)); // a pipe would keep it waiting for a writer; Windows has no such flag
  } catch (cause) {
    const reason = (cause as NodeJS.ErrnoException).code;
    if (reason === 'ENOENT' || reason === 'ENOTDIR') return undefined;
    throw new IntFlashError(code, `Expected ${name} to be readable, got ${reason ?? 'an error'}`, {
      field: name,
      cause,
    });
  }
  if ((await file.stat()).isFile()) return file;
  await file.close();
  throw new IntFlashError(code, `Expected ${name} to be a regular file, got something else`, { field: name });
}
