// Whether this process is heard while it computes, and stops when told. A busy machine holds an event loop up as well, so the bounds are
// wide here, or told by how long the work takes on the same machine; `npm run soak` holds the promised ones.
import { loadModel } from '@int-flash/llm';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { abortMs, delayMs, longPrompt } from '../soak/event-loop.js';
import { quantile } from '../soak/record.js';
import { DEMO_MODEL } from './run-command.js';
import { until } from './serve-harness.js';
import { TurnCount } from './turn-count.js';

/** The promises: delays of the event loop, 99 in 100 of them and all, and how long work goes on that is told to stop. */
const [P99_MS, MOST_MS, ABORT_MS] = [50, 200, 100];
const BUSY = 10; // how much longer everything may take on a machine that is slow and busy
const PROMPT_STEPS = 7; // 900 tokens by 128

let model: Awaited<ReturnType<typeof loadModel>>;

beforeAll(async () => {
  model = await loadModel(DEMO_MODEL);
  await draw(1); // what is compiled and allocated once is not what is asked
});

afterAll(() => model.dispose());

async function draw(maxTokens: number, signal?: AbortSignal): Promise<number> {
  let drawn = 0;
  const began = performance.now();
  for await (const _ of model.generate(longPrompt(), { maxTokens, ignoreEos: true, ...(signal && { signal }) }))
    drawn++;
  expect(drawn).toBe(maxTokens);
  return performance.now() - began;
}

it('lets the event loop turn while a long prompt is read', async () => {
  const count = new TurnCount();
  await draw(1);
  count.stop();
  expect(count.turns).toBeGreaterThan(PROMPT_STEPS);
});

it('lets timers have their turn while answers are drawn', async () => {
  const delay = await delayMs(() => draw(20), 1.5);
  expect(delay.samples).toBeGreaterThan(10);
  expect(delay.percentile(50)).toBeLessThanOrEqual(P99_MS);
  expect(delay.percentile(99)).toBeLessThanOrEqual(BUSY * P99_MS);
  expect(delay.percentile(100)).toBeLessThanOrEqual(BUSY * MOST_MS);
});

it('stops when told, well before a long prompt would have been read', async () => {
  const whole: number[] = [];
  const stopped: number[] = [];
  const end = performance.now() + 2000; // the portable backend takes seconds for one
  for (let i = 0; i < 3 || (i < 9 && performance.now() < end); i++) {
    whole.push(await draw(1));
    let underWay = 0;
    const work = (signal: AbortSignal) => {
      signal.addEventListener('abort', () => {
        underWay = model.status().sessions;
      });
      return draw(1, signal).finally(() => until(() => model.status().sessions === 0)); // has stopped, not only rejected
    };
    const ms = await abortMs(work, whole.at(-1)! / 4);
    if (underWay > 0) stopped.push(ms);
  }
  expect(stopped.length).toBeGreaterThan(0); // the others were read before they could be told
  expect(quantile(stopped, 0.5)).toBeLessThan(quantile(whole, 0.5) / 2); // one step, of several
  expect(quantile(stopped, 0.5)).toBeLessThanOrEqual(ABORT_MS);
  expect(Math.max(...stopped)).toBeLessThanOrEqual(BUSY * ABORT_MS);
});
