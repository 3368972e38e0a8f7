import { EXIT, fateOfOutput, Stopped } from './failures.js';
import type { Terminal } from './terminal.js';

/**
 * Runs work that Ctrl-C can stop: the first one aborts the signal, a second one leaves at once. A reader of stdout that
 * goes away aborts it too, quietly; so does text that could not be written.
 *
 * @throws the signal's reason when it was aborted, whatever the work made of that: {@link Stopped}, or the error of stdout.
 */
export async function stoppable<T>(terminal: Terminal, work: (signal: AbortSignal) => Promise<T>): Promise<T> {
  const controller = new AbortController();
  const onInterrupt = () => {
    if (controller.signal.aborted) process.exit(EXIT.interrupted);
    controller.abort(new Stopped(EXIT.interrupted));
  };
  const onClosed = () => controller.abort(fateOfOutput(terminal.closed.reason));
  process.on('SIGINT', onInterrupt);
  terminal.closed.addEventListener('abort', onClosed);
  if (terminal.closed.aborted) onClosed();
  try {
    const result = await work(controller.signal);
    controller.signal.throwIfAborted();
    return result;
  } catch (error) {
    throw controller.signal.aborted ? controller.signal.reason : error;
  } finally {
    process.off('SIGINT', onInterrupt);
    terminal.closed.removeEventListener('abort', onClosed);
  }
}
