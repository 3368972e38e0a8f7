import { once } from 'node:events';
import type { ServerResponse } from 'node:http';
import type { ApiErrorBody } from './api-error.js';

/** What a reader may leave unread in this process before its stream pauses … */
const MAX_BUFFERED_BYTES = 256 * 1024;

const HEADERS = {
  'content-type': 'text/event-stream; charset=utf-8',
  'cache-control': 'no-store',
  'x-accel-buffering': 'no', // a proxy in between must not collect events
};

/** The reader took nothing for so long that it was given up. */
class SlowReader extends Error {}

/** Server-sent events on a response, as fast as its reader takes them and no faster. */
export class EventStream {
  readonly #response: ServerResponse;
  readonly #patienceMs: number;
  #hasStarted = false;

  /** @param patienceMs … and how long it may stay paused before it is cut off. */
  constructor(response: ServerResponse, patienceMs: number) {
    this.#response = response;
    this.#patienceMs = patienceMs;
  }

  /** Whether the status line is out, so that failures can only be told as an event. */
  get hasStarted(): boolean {
    return this.#hasStarted;
  }

  /**
   * @param json on one line
   * @returns a promise where the reader is slow, to be waited for before more is sent: for a thousand streams it is cheaper to have none
   * @throws {SlowReader}
   */
  send(json: string): Promise<void> | undefined {
    return this.#write(`data: ${json}\n\n`);
  }

  async end(): Promise<void> {
    await this.#write('data: [DONE]\n\n');
    this.#finish();
  }

  /** The last event of a stream that failed. */
  fail(body: ApiErrorBody): void {
    this.#start();
    if (this.#response.destroyed) return;
    this.#response.write(`data: ${JSON.stringify(body)}\n\n`);
    this.#finish();
  }

  #write(event: string): Promise<void> | undefined {
    this.#start();
    const response = this.#response;
    if (response.destroyed) return undefined; // whoever draws the tokens is told by the request's signal
    if (response.write(event) || response.writableLength < MAX_BUFFERED_BYTES) return undefined;
    return this.#drained();
  }

  async #drained(): Promise<void> {
    const response = this.#response;
    const timer = setTimeout(() => response.destroy(new SlowReader('the reader stopped reading')), this.#patienceMs);
    const closed = new AbortController();
    const onClose = () => closed.abort();
    response.once('close', onClose);
    try {
      await once(response, 'drain', { signal: closed.signal });
    } catch (error) {
      if (!closed.signal.aborted) throw error;
    } finally {
      clearTimeout(timer);
      response.off('close', onClose);
    }
  }

  #start(): void {
    if (this.#hasStarted) return;
    this.#hasStarted = true;
    if (!this.#response.headersSent && !this.#response.destroyed) this.#response.writeHead(200, HEADERS);
  }

  /** What is still buffered must reach the reader in time, too. */
  #finish(): void {
    const response = this.#response;
    response.end();
    const timer = setTimeout(() => response.destroy(), this.#patienceMs);
    timer.unref();
    response.once('close', () => clearTimeout(timer));
  }
}
