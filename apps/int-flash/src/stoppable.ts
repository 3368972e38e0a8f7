import { EXIT, fateOfOutput, Stopped } from './failures.js';
import type { Terminal } from './terminal.js';

const SIGNALS = ['SIGINT', 'SIGTERM'] as const;

/**
 * Runs work that Ctrl-C or SIGTERM can stop: the first one aborts the signal, so that nothing half done is left behind, a second
 * one leaves at once. A reader of stdout that goes away aborts it too, quietly; so does text that could not be written.
 *
 * @throws the signal's reason when it was aborted, whatever the work made of that: {@link Stopped}, or the error of stdout.
 */
export async function stoppable<T>(terminal: Terminal, work: (signal: AbortSignal) => Promise<T>): Promise<T> {
  const controller = new AbortController();
  const onSignal = (signal: NodeJS.Signals) => {
    const exitCode = signal === 'SIGTERM' ? EXIT.terminated : EXIT.interrupted;
    if (controller.signal.aborted) process.exit(exitCode);
    controller.abort(new Stopped(exitCode));
  };
  const onClosed = () => controller.abort(fateOfOutput(terminal.closed.reason));
  for (const signal of SIGNALS) process.on(signal, onSignal);
  terminal.closed.addEventListener('abort', onClosed);
  if (terminal.closed.aborted) onClosed();
  try {
    const result = await work(controller.signal);
    controller.signal.throwIfAborted();
    return result;
  } catch (error) {
    throw controller.signal.aborted ? controller.signal.reason : error;
  } finally {
    for (const signal of SIGNALS) process.off(signal, onSignal);
    terminal.closed.removeEventListener('abort', onClosed);
  }
}
