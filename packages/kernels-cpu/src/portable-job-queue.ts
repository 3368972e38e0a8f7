import type { Steps } from './portable-float-rows.js';

const SLICE_MS = 8; // how long the event loop waits for a turn of work

interface Job {
  /** Works for one slice; true when the job is over. */
  advance(): boolean;
}

/** Asynchronous calls of the portable backend take turns on the one thread there is, a slice each per turn of the event loop. */
const waiting: Job[] = [];

/** Runs `steps` to the end, now. */
export function runNow<T>(steps: Steps<T>): T {
  for (;;) {
    const step = steps.next();
    if (step.done) return step.value;
  }
}

/**
 * Runs `steps` in slices between turns of the event loop, starting after the caller's own turn.
 *
 * @returns Rejects with `signal.reason` when aborted, within the current turn of each waiting job (some {@link SLICE_MS} a job).
 */
export function runInSlices<T>(steps: Steps<T>, signal?: AbortSignal): Promise<T> {
  return new Promise((resolve, reject) => {
    const advance = (): boolean => {
      try {
        signal?.throwIfAborted();
        const end = performance.now() + SLICE_MS;
        do {
          const step = steps.next();
          if (step.done) {
            resolve(step.value);
            return true;
          }
        } while (performance.now() < end);
        return false;
      } catch (error) {
        reject(error);
        return true;
      }
    };
    waiting.push({ advance });
    if (waiting.length === 1) setImmediate(takeTurn);
  });
}

function takeTurn(): void {
  const job = waiting[0]!;
  const done = job.advance();
  waiting.shift();
  if (!done) waiting.push(job);
  if (waiting.length > 0) setImmediate(takeTurn);
}
