import type { IncomingMessage } from 'node:http';
import { ApiError, invalid, tooLarge } from './api-error.js';

const MAX_BODY_BYTES = 2 * 1024 * 1024;
const MAX_JSON_DEPTH = 64;
/** Of all bodies that are being read: a thousand clients that send most of theirs and stop must not take two gigabytes. */
const MAX_BYTES_AT_ONCE = 96 * 1024 * 1024;

/** What the bodies of requests hold while they are being read. */
export class IncomingBodies {
  #bytes = 0;

  /** @throws {ApiError} 429 when there is no room for it. */
  add(bytes: number): void {
    if (this.#bytes + bytes > MAX_BYTES_AT_ONCE) {
      throw new ApiError(429, 'rate_limit_error', 'Too much is being sent at once. Try again later.', {
        code: 'bodies_too_large',
        headers: { 'retry-after': '1' },
      });
    }
    this.#bytes += bytes;
  }

  remove(bytes: number): void {
    this.#bytes -= bytes;
  }
}

/**
 * Reads a JSON body under the size limit.
 *
 * @throws {ApiError} 413, 415, 429, 400.
 */
export async function readJsonBody(request: IncomingMessage, bodies: IncomingBodies): Promise<unknown> {
  expectJsonType(request.headers['content-type'], request.headers['content-encoding']);
  return parseJsonBody(await readBody(request, bodies));
}

/** @throws {ApiError} 415. */
export function expectJsonType(type = '', encoding = 'identity'): void {
  // Also what keeps web pages of other origins out: a browser asks before it sends this type, and is not answered.
  if (!/^application\/json\s*(;|$)/i.test(type)) {
    throw invalid('Expected the header content-type: application/json.', undefined, 'unsupported_media_type', 415);
  }
  if (encoding !== 'identity') {
    throw invalid('Expected a body without content-encoding.', undefined, 'unsupported_media_type', 415);
  }
}

/** @throws {ApiError} 400. */
export function parseJsonBody(bytes: Uint8Array): unknown {
  const text = decodeUtf8(bytes);
  expectShallow(text);
  try {
    return JSON.parse(text);
  } catch {
    throw invalid('Expected the body to be JSON.', undefined, 'invalid_json');
  }
}

async function readBody(request: IncomingMessage, bodies: IncomingBodies): Promise<Buffer> {
  if (Number(request.headers['content-length'] ?? 0) > MAX_BODY_BYTES) throw tooLarge(MAX_BODY_BYTES);
  const chunks: Buffer[] = [];
  let size = 0;
  let isRefused = false;
  try {
    return await new Promise((resolve, reject) => {
      request.on('data', (chunk: Buffer) => {
        if (isRefused) return; // read and dropped, for half a second: who is cut off while it sends does not hear why
        try {
          if (size + chunk.length > MAX_BODY_BYTES) throw tooLarge(MAX_BODY_BYTES);
          bodies.add(chunk.length);
          size += chunk.length;
          chunks.push(chunk);
        } catch (error) {
          isRefused = true;
          chunks.length = 0;
          reject(error);
        }
      });
      request.on('end', () => resolve(Buffer.concat(chunks)));
      request.on('error', reject);
      request.on('close', () => reject(invalid('Expected the whole body, got a part of it.')));
    });
  } finally {
    bodies.remove(size);
  }
}

function decodeUtf8(bytes: Uint8Array): string {
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes);
  } catch {
    throw invalid('Expected the body to be UTF-8.', undefined, 'invalid_json');
  }
}

/** Before parsing, which would nest as deep as the text does. */
function expectShallow(text: string): void {
  let depth = 0;
  let inString = false;
  for (let i = 0; i < text.length; i++) {
    const code = text.charCodeAt(i);
    if (inString) {
      if (code === 0x5c) i++;
      else if (code === 0x22) inString = false;
    } else if (code === 0x22) inString = true;
    else if (code === 0x5b || code === 0x7b) {
      if (++depth > MAX_JSON_DEPTH) {
        throw invalid(`Expected JSON of at most ${MAX_JSON_DEPTH} levels.`, undefined, 'invalid_json');
      }
    } else if (code === 0x5d || code === 0x7d) depth--;
  }
}
