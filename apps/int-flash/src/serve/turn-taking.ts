import { eventLoopRest } from '@int-flash/ops';

/** A few requests' worth of checks and of making tokens of prompts. */
const SLICE_MS = 4;

/**
 * Lets what many requests bring with them be done a few milliseconds at a time, first come, first served: where a hundred arrive
 * together, those behind them are heard in between.
 */
export class TurnTaking {
  #sliceStart = 0;
  #last = Promise.resolve();

  /** Resolves when it is the caller's turn, who then works without awaiting anything. */
  enter(): Promise<void> {
    this.#last = this.#last.then(async () => {
      if (performance.now() - this.#sliceStart < SLICE_MS) return;
      await eventLoopRest();
      this.#sliceStart = performance.now();
    });
    return this.#last;
  }
}
