export interface Timed<T> {
  /** Of the last call. */
  readonly result: T;
  readonly medianMs: number;
  readonly runs: number;
}

/**
 * Times a call: one to warm up, then up to `runs` while `budgetMs` lasts. A call that uses the budget up is timed by its first run.
 */
export async function medianTime<T>(call: () => Promise<T>, runs: number, budgetMs: number): Promise<Timed<T>> {
  const once = async () => {
    const started = performance.now();
    const result = await call();
    return { result, ms: performance.now() - started };
  };
  const until = performance.now() + budgetMs;
  const first = await once();
  let { result } = first;
  const times: number[] = [];
  while (times.length < runs && performance.now() < until) {
    const next = await once();
    result = next.result;
    times.push(next.ms);
  }
  if (times.length === 0) times.push(first.ms);
  times.sort((a, b) => a - b);
  return { result, medianMs: times[times.length >> 1]!, runs: times.length };
}
