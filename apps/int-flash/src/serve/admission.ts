import { ApiError, unavailable } from './api-error.js';

export interface AdmissionLimits {
  /** Sequences that run at once. */
  readonly maxRunning: number;
  /** Requests that wait for their turn; the next one is refused. */
  readonly maxWaiting: number;
  readonly waitMs: number;
}

interface Waiter {
  readonly weight: number;
  readonly start: () => void;
  readonly refuse: (error: unknown) => void;
}

/** Lets requests run first come, first served; each takes as many places as it draws sequences. */
export class Admission {
  readonly #limits: AdmissionLimits;
  readonly #waiters: Waiter[] = [];
  #running = 0;
  #isClosed = false;

  constructor(limits: AdmissionLimits) {
    this.#limits = limits;
  }

  get running(): number {
    return this.#running;
  }

  get waiting(): number {
    return this.#waiters.length;
  }

  /** @throws {ApiError} 429 when the queue is full, 503 when it is closed: known before a body is read. */
  expectRoom(): void {
    if (this.#isClosed) throw draining();
    if (this.#running >= this.#limits.maxRunning) this.#expectSeat();
  }

  /**
   * Waits for a turn.
   *
   * @param sequences Those that want to run; more than can run at once count as all there are.
   * @returns What gives the places back; twice is a no-op.
   * @throws {ApiError} as {@link expectRoom}, and 503 after `waitMs`; `signal.reason`.
   */
  async enter(sequences: number, signal: AbortSignal): Promise<() => void> {
    signal.throwIfAborted();
    const weight = Math.min(sequences, this.#limits.maxRunning);
    if (this.#isClosed) throw draining();
    if (this.#waiters.length > 0 || this.#running + weight > this.#limits.maxRunning) {
      this.#expectSeat();
      await this.#wait(weight, signal);
    } else {
      this.#running += weight;
    }
    let isHeld = true;
    return () => {
      if (!isHeld) return;
      isHeld = false;
      this.#running -= weight;
      this.#startNext();
    };
  }

  /** Refuses those that wait and those to come. */
  close(): void {
    this.#isClosed = true;
    for (const waiter of this.#waiters.splice(0)) waiter.refuse(draining());
  }

  #expectSeat(): void {
    if (this.#waiters.length < this.#limits.maxWaiting) return;
    throw new ApiError(429, 'rate_limit_error', 'Too many requests are waiting. Try again later.', {
      code: 'queue_full',
      headers: { 'retry-after': '1' },
    });
  }

  async #wait(weight: number, signal: AbortSignal): Promise<void> {
    let onAbort = () => {};
    let timer: NodeJS.Timeout | undefined;
    try {
      await new Promise<void>((resolve, reject) => {
        const waiter: Waiter = { weight, start: resolve, refuse: reject };
        const leave = (error: unknown) => {
          const at = this.#waiters.indexOf(waiter);
          if (at < 0) return; // its turn came in the same moment
          this.#waiters.splice(at, 1);
          reject(error);
          this.#startNext(); // a smaller one behind it may fit now
        };
        onAbort = () => leave(signal.reason);
        signal.addEventListener('abort', onAbort, { once: true });
        timer = setTimeout(
          () => leave(unavailable('The request waited too long for its turn.', 'queue_timeout')),
          this.#limits.waitMs,
        );
        this.#waiters.push(waiter);
      });
    } finally {
      clearTimeout(timer);
      signal.removeEventListener('abort', onAbort);
    }
  }

  #startNext(): void {
    for (;;) {
      const next = this.#waiters[0];
      if (!next || this.#running + next.weight > this.#limits.maxRunning) return;
      this.#waiters.shift();
      this.#running += next.weight;
      next.start();
    }
  }
}

function draining(): ApiError {
  return unavailable('The server is shutting down.', 'shutting_down');
}
