import { ask } from '../test/serve-harness.js';
import { readStream } from './event-reader.js';
import { type Finding, quantile, round } from './record.js';
import { startCommandServer } from './server-process.js';

const RUNNING = 64;
const WAITING = 64;
const TOKENS = 48;

/** S7 with the demo model: as many streams as may run, as many again waiting, and the server still answers. */
export async function fairness(): Promise<Finding[]> {
  const server = await startCommandServer(['--max-running', String(RUNNING), '--max-waiting', String(WAITING)]);
  const prompts = ['Tell me a story.', 'I need a hotel in London for two people.', 'Hello! Who are you?'];
  const body = (i: number) => ({
    messages: [{ role: 'user', content: prompts[i % prompts.length]! }],
    max_tokens: TOKENS,
    stream: true,
    ignore_eos: true,
  });
  const health: number[] = [];
  let isDone = false;
  const probe = (async () => {
    while (!isDone) {
      const asked = performance.now();
      await ask(server, '/health');
      health.push(performance.now() - asked);
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
  })();
  const started = performance.now();
  const streams = await Promise.all(
    Array.from({ length: RUNNING + WAITING }, (_, i) => readStream(server.port, body(i))),
  );
  const seconds = (performance.now() - started) / 1000;
  isDone = true;
  await probe;
  await server.stop();
  const first = streams
    .map(({ times }) => ({ begin: times[0]!, ms: times.at(-1)! - times[0]! }))
    .sort((a, b) => a.begin - b.begin)
    .slice(0, RUNNING)
    .map(({ ms }) => ms);
  return [
    {
      what: `streams of ${RUNNING + WAITING} that did not finish`,
      value: streams.filter(({ isWhole }) => !isWhole).length,
      unit: 'streams',
      bound: 0,
    },
    {
      what: `slowest of the ${RUNNING} that ran together, over the fastest`,
      value: round(Math.max(...first) / Math.min(...first), 2),
      unit: '×',
      bound: 3,
    },
    { what: '/health meanwhile, p99', value: round(quantile(health, 0.99)), unit: 'ms', bound: 50 },
    { what: 'tokens a second, all streams', value: round(((RUNNING + WAITING) * TOKENS) / seconds), unit: 'tokens/s' },
  ];
}
