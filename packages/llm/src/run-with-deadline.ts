import { type Context, createContext, Script } from 'node:vm';

let context: (Context & { work?: (() => unknown) | undefined }) | undefined;
const script = new Script('work()');

/**
 * Runs synchronous `work` and stops it after `milliseconds`, in the middle of a loop or of a regular expression.
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
    return script.runInContext(context, { timeout: Math.ceil(milliseconds) }) as T;
  } catch (error) {
    if ((error as NodeJS.ErrnoException | undefined)?.code === 'ERR_SCRIPT_EXECUTION_TIMEOUT') throw onDeadline();
    throw error;
  } finally {
    context.work = outer;
  }
}
