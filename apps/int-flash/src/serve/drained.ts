import { once } from 'node:events';
import type { ServerResponse } from 'node:http';

/** What a reader may leave unread in this process before more is written for it. */
export const MAX_BUFFERED_BYTES = 256 * 1024;

/** The reader took too little for too long and was given up. */
class SlowReader extends Error {}

/**
 * Cuts a reader off in so long, unless what is returned is called before. Behind another response on its connection the time begins with
 * its turn: until then nobody could read it.
 */
export function cutOffIn(patienceMs: number, response: ServerResponse): () => void {
  let timer: NodeJS.Timeout | undefined;
  const begin = () => {
    timer = setTimeout(() => response.destroy(new SlowReader('the reader stopped reading')), patienceMs);
    timer.unref();
  };
  if (response.socket) begin();
  else response.once('socket', begin);
  return () => {
    clearTimeout(timer);
    response.off('socket', begin);
  };
}

/**
 * Waits until the system has taken what was written. Ends early, without an error, when the connection closes or the signal is
 * aborted: who writes on finds out by itself.
 *
 * @param patienceMs After so long the connection is cut off.
 */
export async function drained(response: ServerResponse, patienceMs: number, signal: AbortSignal): Promise<void> {
  if (!response.writableNeedDrain || response.destroyed || signal.aborted) return;
  const cancel = cutOffIn(patienceMs, response);
  const ended = new AbortController();
  const onEnd = () => ended.abort();
  response.once('close', onEnd);
  signal.addEventListener('abort', onEnd, { once: true });
  try {
    await once(response, 'drain', { signal: ended.signal });
  } catch (error) {
    if (!ended.signal.aborted) throw error;
  } finally {
    cancel();
    response.off('close', onEnd);
    signal.removeEventListener('abort', onEnd);
  }
}
