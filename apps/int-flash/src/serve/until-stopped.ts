import { EXIT } from '../failures.js';
import type { ServeState } from './serve-state.js';

const SIGNALS = ['SIGINT', 'SIGTERM'] as const;

/**
 * Resolves at the first SIGINT or SIGTERM; a second one ends the process at once.
 *
 * @throws what made the engine fail for good.
 */
export function untilStopped(state: ServeState): Promise<void> {
  return new Promise((resolve, reject) => {
    let isStopping = false;
    const onSignal = (signal: NodeJS.Signals) => {
      if (isStopping) process.exit(signal === 'SIGINT' ? EXIT.interrupted : EXIT.terminated);
      isStopping = true;
      resolve();
    };
    for (const signal of SIGNALS) process.on(signal, onSignal);
    state.onFatal = reject;
  });
}
