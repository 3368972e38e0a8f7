import { once } from 'node:events';
import type { ServerResponse } from 'node:http';

/** What a reader may leave unread in this process before more is written for it. */
export const MAX_BUFFERED_BYTES = 256 * 1024;

/** The reader took too little for too long and was given up. */
class SlowReader extends Error {}

/**
 * Waits until the system has taken what was written. Ends early, without an error, when the connection closes or the signal is
 * aborted: who writes on finds out by itself.
 *
 * @param patienceMs After so long the connection is cut off.
 */
export async function drained(response: ServerResponse, patienceMs: number, signal: AbortSignal): Promise<void> {
  if (!response.writableNeedDrain || response.destroyed || signal.aborted) return;
  const timer = setTimeout(() => response.destroy(new SlowReader('the reader stopped reading')), patienceMs);
  const ended = new AbortController();
  const onEnd = () => ended.abort();
  response.once('close', onEnd);
  signal.addEventListener('abort', onEnd, { once: true });
  try {
    await once(response, 'drain', { signal: ended.signal });
  } catch (error) {
    if (!ended.signal.aborted) throw error;
  } finally {
    clearTimeout(timer);
    response.off('close', onEnd);
    signal.removeEventListener('abort', onEnd);
  }
}
