import { eventLoopRest } from '@int-flash/ops';

const SLICE_MS = 8;

/** A signal, as far as it is looked at here. */
type Abortable = Pick<AbortSignal, 'throwIfAborted'>;

/**
 * Keeps long computations on the event loop's thread from holding it up: after a slice of about 8 ms it lets timers, I/O and
 * signals have their turn. Signals are looked at there, so an abort is seen within a slice and one backend call.
 */
export class Pace {
  readonly #signals: readonly Abortable[];
  #slice = { start: performance.now() };

  constructor(...signals: (Abortable | undefined)[]) {
    this.#signals = signals.filter((signal) => signal !== undefined);
  }

  /** Other signals, within the same slices. */
  with(...signals: Abortable[]): Pace {
    const pace = new Pace(...signals);
    pace.#slice = this.#slice;
    return pace;
  }

  /** Whether the slice is used up: `if (pace.isDue) await pace.rest()` costs no microtask when it is not. */
  get isDue(): boolean {
    return performance.now() - this.#slice.start > SLICE_MS;
  }

  /** Lets the event loop run, then throws `signal.reason` if a signal was aborted. */
  async rest(): Promise<void> {
    await eventLoopRest();
    this.#slice.start = performance.now();
    this.throwIfAborted();
  }

  throwIfAborted(): void {
    for (const signal of this.#signals) signal.throwIfAborted();
  }
}
