/** Work in short steps, so that the oracles can run in a process that must also answer others: a row of the output a step. */
export type Steps<T> = Generator<void, T>;

const SLICE_MS = 8;

/** Does all of it now. */
export function runSteps<T>(steps: Steps<T>): T {
  for (;;) {
    const { done, value } = steps.next();
    if (done) return value;
  }
}

/**
 * Does it in slices of some milliseconds, with a turn of the event loop after each.
 * @throws `signal.reason` when aborted.
 */
export async function runStepsInSlices<T>(steps: Steps<T>, signal?: AbortSignal): Promise<T> {
  for (;;) {
    signal?.throwIfAborted();
    const until = performance.now() + SLICE_MS;
    do {
      const { done, value } = steps.next();
      if (done) return value;
    } while (performance.now() < until);
    await new Promise((resolve) => setImmediate(resolve));
  }
}
