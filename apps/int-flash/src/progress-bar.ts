import { SingleBar } from 'cli-progress';
import type { Terminal } from './terminal.js';

/** Steps of one job, told as a fraction in [0, 1]. */
export type OnProgress = (fraction: number) => void;

/**
 * Shows a bar on stderr while `work` runs, where stderr is a terminal and `quiet` is off, and wipes it afterwards.
 * @param label at most 12 characters
 */
export async function withProgressBar<T>(
  terminal: Terminal,
  label: string,
  quiet: boolean,
  work: (onProgress: OnProgress) => Promise<T>,
): Promise<T> {
  if (quiet || !terminal.stderr.isTTY) return work(() => {});
  const bar = new SingleBar({
    stream: terminal.stderr as unknown as NodeJS.WritableStream,
    format: `${label} {bar} {percentage}%`,
    barCompleteChar: '━',
    barIncompleteChar: '─',
    barsize: 40,
    clearOnComplete: true,
    hideCursor: false, // a process that is killed could not bring the cursor back
    linewrap: true, // nor its line wrapping
    gracefulExit: false, // Ctrl-C is handled in one place, stoppable.ts
    fps: 20,
  });
  bar.start(100, 0);
  try {
    return await work((fraction) => bar.update(Math.round(fraction * 100)));
  } finally {
    bar.stop();
  }
}
