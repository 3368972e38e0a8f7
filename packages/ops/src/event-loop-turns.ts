// Libuv accepts one connection a turn and hears it in the next: with one turn after each slice of computing, a hundred clients that
// connect together would wait for a hundred slices, and whoever comes behind them, too. A turn with nothing to do takes about 1 µs.
const REST_TURNS = 32;
/** As long as a slice of computing: whatever comes, each has half of the thread. */
const MAX_REST_MS = 8;

/** Lets timers, I/O and signals have their turn. */
export function eventLoopTurn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

/** Lets them have what they need, as far as that is little. */
export async function eventLoopRest(): Promise<void> {
  const end = performance.now() + MAX_REST_MS;
  for (let i = 0; i < REST_TURNS && performance.now() < end; i++) await eventLoopTurn();
}
