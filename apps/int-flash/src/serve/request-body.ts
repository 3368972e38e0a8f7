import type { IncomingMessage } from 'node:http';
import { invalid, tooLarge } from './api-error.js';

const MAX_BODY_BYTES = 2 * 1024 * 1024;
const MAX_JSON_DEPTH = 64;

/**
 * Reads a JSON body under the size limit.
 *
 * @throws {ApiError} 413, 415, 400.
 */
export async function readJsonBody(request: IncomingMessage): Promise<unknown> {
  // Also what keeps web pages of other origins out: a browser asks before it sends this type, and is not answered.
  if (!/^application\/json\s*(;|$)/i.test(request.headers['content-type'] ?? '')) {
    throw invalid('Expected the header content-type: application/json.', undefined, 'unsupported_media_type', 415);
  }
  if ((request.headers['content-encoding'] ?? 'identity') !== 'identity') {
    throw invalid('Expected a body without content-encoding.', undefined, 'unsupported_media_type', 415);
  }
  const text = decodeUtf8(await readBody(request));
  expectShallow(text);
  try {
    return JSON.parse(text);
  } catch {
    throw invalid('Expected the body to be JSON.', undefined, 'invalid_json');
  }
}

function readBody(request: IncomingMessage): Promise<Buffer> {
  if (Number(request.headers['content-length'] ?? 0) > MAX_BODY_BYTES) throw tooLarge(MAX_BODY_BYTES);
  return new Promise((resolve, reject) => {
    const chunks: Buffer[] = [];
    let size = 0;
    request.on('data', (chunk: Buffer) => {
      size += chunk.length;
      if (size > MAX_BODY_BYTES) {
        chunks.length = 0;
        reject(tooLarge(MAX_BODY_BYTES)); // the rest is read and dropped, for half a second: who is cut off while it sends does not hear why
      } else chunks.push(chunk);
    });
    request.on('end', () => resolve(Buffer.concat(chunks)));
    request.on('error', reject);
    request.on('close', () => reject(invalid('Expected the whole body, got a part of it.')));
  });
}

function decodeUtf8(bytes: Buffer): string {
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
