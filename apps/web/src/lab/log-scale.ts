export interface LogScale {
  /** A value's place on the axis. */
  place(value: number): number;
  /** Powers of ten, or finer steps where there are few of those. */
  readonly ticks: readonly number[];
}

const MARGIN = 0.08; // of the axis, on either side of the outermost point

/** A logarithmic axis from `start` to `end` (pixels, either may be larger) that has room for all `values` (> 0). */
export function logScale(values: readonly number[], start: number, end: number): LogScale {
  const logs = values.map(Math.log10);
  let low = Math.min(...logs);
  let high = Math.max(...logs);
  const spare = Math.max((high - low) * MARGIN, 0.15); // one value alone gets an axis too
  low -= spare;
  high += spare;
  const steps = high - low > 2 ? [1] : high - low > 1 ? [1, 2, 5] : [1, 2, 3, 4, 5, 6, 8];
  const ticks: number[] = [];
  for (let power = Math.floor(low); power <= high; power++) {
    for (const step of steps) {
      const tick = step * 10 ** power;
      if (Math.log10(tick) >= low && Math.log10(tick) <= high) ticks.push(tick);
    }
  }
  return { place: (value) => start + ((Math.log10(value) - low) / (high - low)) * (end - start), ticks };
}
