// Candidates timed in turns, round by round: on a shared machine the clock drifts, and only what ran side by side compares.
import { setTimeout as sleep } from 'node:timers/promises';

const REPEAT_MS = 4; // a candidate's turn lasts about so long, in as many calls as fit
const MOST_REPEATS = 400;

export const median = (values) => [...values].sort((a, b) => a - b)[values.length >> 1];

/**
 * @param candidates name → run(i), i counting calls; awaited when it returns a promise
 * @param limits     {rounds, seconds}: so many rounds, but no more than 3 once the seconds are spent
 * @param settled    awaits quiet before each turn; absent: turns follow each other at once
 * @returns name → {ms: median of its rounds, rounds: ms of each round}
 */
export async function race(candidates, { rounds = 9, seconds = 4 } = {}, settled = undefined) {
  const entries = Object.entries(candidates);
  const repeats = new Map();
  for (const [name, run] of entries) {
    await run(0);
    const once = await milliseconds(run, 1, 1);
    repeats.set(name, Math.max(1, Math.min(MOST_REPEATS, Math.round(REPEAT_MS / once))));
  }
  const times = new Map(entries.map(([name]) => [name, []]));
  const start = performance.now();
  for (let round = 0; round < rounds && (round < 3 || performance.now() - start < seconds * 1000); round++) {
    for (const [name, run] of entries) {
      await settled?.();
      await run(0); // wakes threads, as a call before it would have
      times.get(name).push(await milliseconds(run, repeats.get(name), 1));
    }
  }
  return Object.fromEntries([...times].map(([name, values]) => [name, { ms: median(values), rounds: values }]));
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

/** Waits until this process computes nothing: onnxruntime's threads spin for a while after a call, on the cores the next candidate needs. */
export async function quiet() {
  for (let tries = 0; tries < 100; tries++) {
    const before = process.cpuUsage();
    const start = performance.now();
    await sleep(2);
    const { user, system } = process.cpuUsage(before);
    if ((user + system) / 1000 < 0.3 * (performance.now() - start)) return;
  }
}
