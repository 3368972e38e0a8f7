import { monitorEventLoopDelay } from 'node:perf_hooks';
import { setTimeout as sleep } from 'node:timers/promises';
import { type AttentionInputs, intFlashAttention } from '@int-flash/attention';
import { loadModel } from '@int-flash/llm';
import { makeInputs } from '@int-flash/reference';
import { type Finding, round } from './record.js';

const SECONDS = 10;
const ABORTS = 40;

/** N9: whether timers and I/O have their turn while this process computes without a pause, and how soon it stops when told. */
export async function eventLoop(): Promise<Finding[]> {
  const inputs = makeInputs('normal', { heads: 8, queries: 2048, keys: 2048, headDim: 64 }, 1) as AttentionInputs;
  const model = await loadModel('models/int-flash-demo');
  const attention = (signal?: AbortSignal) => intFlashAttention(inputs, signal ? { signal } : {});
  const decoding = async (signal?: AbortSignal) => {
    const settings = { maxTokens: 100, ignoreEos: true, ...(signal ? { signal } : {}) };
    for await (const _ of model.generate(longPrompt(), settings)) if (signal?.aborted) break;
  };
  try {
    return [
      ...(await delays('attention', attention)),
      ...(await delays('decoding', decoding)),
      ...(await aborts('attention', attention)),
      ...(await aborts('decoding', decoding)),
    ];
  } finally {
    await model.dispose();
  }
}

let prompts = 0;

/** Long, since a prefill is what holds a loop up; and none begins like another, or the model would find it read already. */
export function longPrompt(): number[] {
  const first = prompts++;
  return Array.from({ length: 900 }, (_, i) => 10 + ((first + i) % 3000));
}

async function delays(what: string, work: () => Promise<unknown>): Promise<Finding[]> {
  await work(); // what is compiled and allocated once is not what is asked
  const delay = await delayMs(work, SECONDS);
  return [
    {
      what: `delay of the event loop in ${SECONDS} s of ${what}, p99`,
      value: round(delay.percentile(99)),
      unit: 'ms',
      bound: 50,
    },
    { what: `the same, at most`, value: round(delay.percentile(100)), unit: 'ms', bound: 200 },
  ];
}

/** How long the event loop was held up while work went on without a pause. */
export async function delayMs(work: () => Promise<unknown>, seconds: number) {
  const delay = monitorEventLoopDelay({ resolution: 5 });
  delay.enable();
  for (const end = performance.now() + seconds * 1000; performance.now() < end; ) await work();
  delay.disable();
  return { samples: delay.count, percentile: (of: number) => delay.percentile(of) / 1e6 };
}

/** From the moment it is told, so many milliseconds after its beginning, until it has stopped. */
export async function abortMs(work: (signal: AbortSignal) => Promise<unknown>, afterMs: number): Promise<number> {
  const controller = new AbortController();
  const done = work(controller.signal).catch(() => {});
  await sleep(afterMs);
  const told = performance.now();
  controller.abort();
  await done;
  return performance.now() - told;
}

async function aborts(what: string, work: (signal: AbortSignal) => Promise<unknown>): Promise<Finding[]> {
  let worst = 0;
  for (let i = 0; i < ABORTS; i++) worst = Math.max(worst, await abortMs(work, Math.random() * 40));
  return [{ what: `until ${what} stops when told, worst of ${ABORTS}`, value: round(worst), unit: 'ms', bound: 100 }];
}
