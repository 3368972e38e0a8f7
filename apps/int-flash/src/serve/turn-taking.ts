/** A few requests' worth of checks and of making tokens of prompts. */
const SLICE_MS = 4;
// Node accepts one connection a turn of the event loop; a turn with nothing to do takes about 1 µs.
const REST_TURNS = 32;
const MAX_REST_MS = 8;

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
      const end = performance.now() + MAX_REST_MS;
      for (let i = 0; i < REST_TURNS && performance.now() < end; i++) {
        await new Promise<void>((resolve) => setImmediate(resolve));
      }
      this.#sliceStart = performance.now();
    });
    return this.#last;
  }
}
