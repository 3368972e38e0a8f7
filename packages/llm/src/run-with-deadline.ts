import { type Context, createContext, Script } from 'node:vm';

let context: (Context & { work?: (() => unknown) | undefined }) | undefined;
const script = new Script('work()');

/** Time on the clock that `work` gets at most on a busy machine, as a multiple of its time on an idle one. */
const PATIENCE = 32;

/**
 * Runs synchronous `work` and stops it after `milliseconds`, in the middle of a loop or of a regular expression.
 *
 * The watchdog reads the clock on the wall. Where other processes took the core meanwhile, `work` had less: then it starts over
 * with twice the time, so it must have no side effects.
 *
 * Node's watchdog for `vm` scripts covers what a script calls, so `work` stays an ordinary function with its own objects; only
 * the one-line script that calls it lives in the other context. Starting the watchdog costs about 0.1 ms.
 * @throws What `work` throws; `onDeadline()` when it was stopped.
 */
export function runWithDeadline<T>(work: () => T, milliseconds: number, onDeadline: () => Error): T {
  context ??= createContext({});
  const outer = context.work; // a call inside a call
  context.work = work;
  try {
    for (let limit = milliseconds; ; limit *= 2) {
      const before = process.cpuUsage();
      try {
        return script.runInContext(context, { timeout: Math.ceil(limit) }) as T;
      } catch (error) {
        if ((error as NodeJS.ErrnoException | undefined)?.code !== 'ERR_SCRIPT_EXECUTION_TIMEOUT') throw error;
        const { user, system } = process.cpuUsage(before); // microseconds, of all threads: never less than the work had
        if ((user + system) / 1000 >= milliseconds / 2 || limit >= PATIENCE * milliseconds) throw onDeadline();
      }
    }
  } finally {
    context.work = outer;
  }
}
