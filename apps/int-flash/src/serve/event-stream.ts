import type { ServerResponse } from 'node:http';
import type { ApiErrorBody } from './api-error.js';
import { cutOffIn, drained, MAX_BUFFERED_BYTES } from './drained.js';

const HEADERS = {
  'content-type': 'text/event-stream; charset=utf-8',
  'cache-control': 'no-store',
  'x-accel-buffering': 'no', // a proxy in between must not collect events
};

/** Server-sent events on a response, as fast as its reader takes them and no faster. */
export class EventStream {
  readonly #response: ServerResponse;
  readonly #patienceMs: number;
  readonly #signal: AbortSignal;
  #hasStarted = false;
  #drained: Promise<void> | undefined;

  /**
   * @param patienceMs How long a reader may keep its stream paused before it is cut off.
   * @param signal     Aborted when nobody is to wait for the reader any more.
   */
  constructor(response: ServerResponse, patienceMs: number, signal: AbortSignal) {
    this.#response = response;
    this.#patienceMs = patienceMs;
    this.#signal = signal;
  }

  /** Whether the status line is out, so that failures can only be told as an event. */
  get hasStarted(): boolean {
    return this.#hasStarted;
  }

  /**
   * @param json on one line
   * @returns a promise where the reader is slow, to be waited for before more is sent: for a thousand streams it is cheaper to have none
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
    // One wait for all choices that write here: each of its own would listen for the same three events.
    this.#drained ??= drained(response, this.#patienceMs, this.#signal).finally(() => {
      this.#drained = undefined;
    });
    return this.#drained;
  }

  #start(): void {
    if (this.#hasStarted) return;
    this.#hasStarted = true;
    if (!this.#response.headersSent && !this.#response.destroyed) this.#response.writeHead(200, HEADERS);
  }

  /** What is still buffered must reach the reader in time, too. */
  #finish(): void {
    this.#response.end();
    this.#response.once('close', cutOffIn(this.#patienceMs, this.#response));
  }
}
