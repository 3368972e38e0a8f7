// Candidates timed in turns, round by round, in another order each round: on a shared machine the clock drifts, and only what ran side by side compares.
import { seededUniform } from '@int-flash/reference';

const REPEAT_MS = 4; // a candidate's turn lasts about so long, in as many calls as fit
const MOST_REPEATS = 400;
const WARM_ROUNDS = 4; // of WARM_MS a candidate, before anything is timed: JavaScript is compiled by then, for all candidates in turn
const WARM_MS = 20;

export const median = (values) => [...values].sort((a, b) => a - b)[values.length >> 1];

/**
 * @param candidates name → run(i), i counting calls; awaited when it returns a promise
 * @param limits     {rounds, seconds}: so many rounds, but no more than 3 once the seconds are spent
 * @param settled    waits for quiet before each turn; absent: turns follow each other at once
 * @returns name → {ms: median of its rounds, bestMs: the quickest, rounds: ms of each}
 */
export async function race(candidates, { rounds = 9, seconds = 4 } = {}, settled = undefined) {
  const entries = Object.entries(candidates);
  const repeats = new Map();
  for (let round = 0; round < WARM_ROUNDS; round++) {
    for (const [, run] of entries)
      for (const start = performance.now(); performance.now() - start < WARM_MS; ) await milliseconds(run, 1, 0);
  }
  for (const [name, run] of entries) {
    const once = Math.min(await milliseconds(run, 1, 1), await milliseconds(run, 1, 2), await milliseconds(run, 1, 3)); // the first wakes threads
    repeats.set(name, Math.max(1, Math.min(MOST_REPEATS, Math.round(REPEAT_MS / once))));
  }
  const times = new Map(entries.map(([name]) => [name, []]));
  const start = performance.now();
  for (let round = 0; round < rounds && (round < 3 || performance.now() - start < seconds * 1000); round++) {
    for (const [name, run] of shuffled(entries)) {
      settled?.();
      await run(0); // wakes threads, as a call before it would have
      times.get(name).push(await milliseconds(run, repeats.get(name), 1));
    }
  }
  return Object.fromEntries(
    [...times].map(([name, values]) => [name, { ms: median(values), bestMs: Math.min(...values), rounds: values }]),
  );
}

const uniform = seededUniform(1);
/** Another order each time, the same ones in each process: whoever always came behind a peer whose threads had just stopped would pay for what those left behind. */
function shuffled(entries) {
  const order = [...entries];
  for (let i = order.length - 1; i > 0; i--) {
    const other = Math.floor(uniform() * (i + 1));
    [order[i], order[other]] = [order[other], order[i]];
  }
  return order;
}

async function milliseconds(run, count, first) {
  const start = process.hrtime.bigint();
  for (let i = first; i < first + count; i++) {
    const pending = run(i);
    if (pending?.then) await pending;
  }
  return Number(process.hrtime.bigint() - start) / 1e6 / count;
}

/** How many times as long `slow` takes as `fast`: the median over the rounds they shared. */
export function timesAsLong(slow, fast) {
  return median(fast.rounds.map((ms, round) => slow.rounds[round] / ms));
}

/**
 * Waits until no thread of this process computes but this one: onnxruntime's spin for a while after a call, on the cores that the next
 * candidate needs. The system counts what another thread used only every few milliseconds, so a shorter look would see nothing. It does
 * not sleep meanwhile: a core that was idle is slow for its first milliseconds.
 */
export function quiet() {
  const LOOK_MS = 9; // two ticks of a 250 Hz clock
  for (let tries = 0; tries < 20; tries++) {
    const before = process.cpuUsage();
    const start = performance.now();
    while (performance.now() - start < LOOK_MS);
    const { user, system } = process.cpuUsage(before);
    if ((user + system) / 1000 < 1.2 * (performance.now() - start)) return;
  }
}
