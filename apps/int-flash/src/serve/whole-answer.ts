import type { ServerResponse } from 'node:http';
import { type ApiError, invalid } from './api-error.js';
import { drained, MAX_BUFFERED_BYTES } from './drained.js';

/** What is kept of one choice until all of it is drawn, about; a thousand times the demo model's longest text. */
const MAX_KEPT_CHARACTERS = 8 * 1024 * 1024;
/** Of a log-probability in JSON: a short token, its bytes, a number of 17 digits. */
const LOGPROB_CHARACTERS = 64;

/** Counts what a choice that is told whole keeps in memory. */
export class KeptAnswer {
  #characters = 0;

  /** @throws {ApiError} 400 when it is more than an answer may be that is not streamed. */
  add(characters: number, logprobs: number): void {
    this.#characters += characters + logprobs * LOGPROB_CHARACTERS;
    if (this.#characters > MAX_KEPT_CHARACTERS) throw tooLong();
  }
}

/** @throws {ApiError} 400 where it is longer than a string can be. */
export function wholeJson(answer: unknown): string {
  try {
    return JSON.stringify(answer);
  } catch (error) {
    throw error instanceof RangeError ? tooLong() : error;
  }
}

/**
 * Sends an answer as fast as its reader takes it; resolves when no more of it is kept here than a stream may leave unread. An aborted
 * signal cuts it off.
 *
 * @returns whether all of it went out
 */
export async function sendWhole(
  response: ServerResponse,
  json: string,
  patienceMs: number,
  signal: AbortSignal,
): Promise<boolean> {
  const body = Buffer.from(json);
  response.writeHead(200, { 'content-type': 'application/json', 'content-length': body.length });
  let at = 0;
  for (; body.length - at > MAX_BUFFERED_BYTES; at += MAX_BUFFERED_BYTES) {
    response.write(body.subarray(at, at + MAX_BUFFERED_BYTES));
    await drained(response, patienceMs, signal);
    if (signal.aborted) response.destroy();
    if (response.destroyed) return false;
  }
  response.end(body.subarray(at));
  return true;
}

function tooLong(): ApiError {
  return invalid(
    'Expected stream to be true: the answer is longer than one piece may be.',
    'stream',
    'answer_too_long',
  );
}
