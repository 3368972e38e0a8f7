import { setTimeout as sleep } from 'node:timers/promises';
import { ask, CHAT, chat } from '../test/serve-harness.js';
import { type Finding, quantile, round } from './record.js';
import { startMockServer } from './server-process.js';

const RUNNING = 16;
const WAITING = 64;
const REFUSED = 500;

/** S3: when all places are taken, the next is told so at once. */
export async function queue(): Promise<Finding[]> {
  const server = await startMockServer({ tokenMs: 20, maxRunning: RUNNING, maxWaiting: WAITING });
  const body = chat({ max_tokens: 900 });
  const under = Array.from({ length: RUNNING + WAITING }, () => ask(server, CHAT, { body }).catch(() => undefined));
  await sleep(500);
  const times: number[] = [];
  let other = 0;
  for (let i = 0; i < REFUSED; i++) {
    const asked = performance.now();
    const { status, headers } = await ask(server, CHAT, { body });
    times.push(performance.now() - asked);
    if (status !== 429 || !headers['retry-after']) other++;
  }
  await server.stop();
  await Promise.all(under);
  return [
    {
      what: `of ${REFUSED} too many, answered with another thing than 429 and retry-after`,
      value: other,
      unit: 'answers',
      bound: 0,
    },
    { what: 'until the refusal, p99', value: round(quantile(times, 0.99)), unit: 'ms', bound: 20 },
  ];
}
