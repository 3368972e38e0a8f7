import { Agent } from 'node:http';
import { ask, CHAT, chat, open } from '../test/serve-harness.js';
import { type Finding, round } from './record.js';
import { startMockServer } from './server-process.js';

const WARM_UP = 70_000; // memory of plain Node still grows before that
const REQUESTS = 150_000;
const AT_ONCE = 32;
const SAMPLE_EVERY = 1000;

/** S8: good requests, bad ones and ones that are hung up on, until memory has shown whether it grows. */
export async function steadyRequests(): Promise<Finding[]> {
  const server = await startMockServer({ maxRunning: AT_ONCE });
  const agent = new Agent({ keepAlive: true, maxSockets: AT_ONCE });
  const samples: { readonly requests: number; readonly rss: number }[] = [];
  let before: Awaited<ReturnType<typeof server.stats>> | undefined;
  let wrong = 0;
  let sent = 0;
  let sampling = Promise.resolve();
  const work = async () => {
    while (sent < WARM_UP + REQUESTS) {
      const i = sent++;
      if (!(await isAnsweredRight(server, agent, i))) wrong++;
      if (i === WARM_UP) before = await server.stats();
      if (i > WARM_UP && i % SAMPLE_EVERY === 0) {
        sampling = sampling.then(async () => {
          samples.push({ requests: i, rss: (await server.collectedStats()).rss });
        });
      }
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, work));
  await sampling;
  agent.destroy();
  await new Promise((resolve) => setTimeout(resolve, 6000)); // connections kept alive are given up after five seconds
  const after = await server.stats();
  await server.stop();
  const { slope, upper } = growth(samples);
  return [
    { what: 'requests with another answer than they should have', value: wrong, unit: 'requests', bound: 0 },
    { what: `memory growth over ${REQUESTS} requests`, value: round(slope), unit: 'B/request' },
    { what: 'memory growth, upper end of the 95% interval', value: round(upper), unit: 'B/request', bound: 16 },
    {
      what: 'descriptors more than after the warm-up',
      value: Math.max(after.descriptors - before!.descriptors, 0),
      unit: 'descriptors',
      bound: 0,
    },
    {
      what: 'handles more than after the warm-up',
      value: Math.max(after.handles - before!.handles, 0),
      unit: 'handles',
      bound: 0,
    },
    { what: 'sequences held at the end', value: after.sequences, unit: 'sequences', bound: 0 },
    { what: 'failures of the server', value: after.failures, unit: 'failures', bound: 0 },
  ];
}

/** One of ten kinds of request: six good ones, half of them streams, three bad ones, one that is hung up on. */
export async function isAnsweredRight(server: { readonly port: number }, agent: Agent, i: number): Promise<boolean> {
  const kind = i % 10;
  if (kind === 9) {
    await hangUp(server.port);
    return true;
  }
  const body = kind < 6 ? chat({ max_tokens: 2, stream: kind < 3 }) : chat({ temperature: 'hot' });
  const { status } = await ask(server, CHAT, { body, agent });
  return status === (kind < 6 ? 200 : 400);
}

function hangUp(port: number): Promise<void> {
  return new Promise((resolve) => {
    const outgoing = open({ port }, CHAT, { body: chat({ max_tokens: 900, stream: true }) }, (response) => {
      response.on('error', () => {});
      outgoing.destroy();
    });
    outgoing.on('error', () => {});
    outgoing.on('close', () => resolve());
  });
}

/** Least squares of memory over requests, with the interval of its slope. */
function growth(samples: readonly { readonly requests: number; readonly rss: number }[]) {
  const n = samples.length;
  const mean = (read: (sample: (typeof samples)[number]) => number) => samples.reduce((sum, s) => sum + read(s), 0) / n;
  const x = mean(({ requests }) => requests);
  const y = mean(({ rss }) => rss);
  const sxx = samples.reduce((sum, { requests }) => sum + (requests - x) ** 2, 0);
  const slope = samples.reduce((sum, { requests, rss }) => sum + (requests - x) * (rss - y), 0) / sxx;
  const squares = samples.reduce((sum, { requests, rss }) => sum + (rss - y - slope * (requests - x)) ** 2, 0);
  return { slope, upper: slope + 2 * Math.sqrt(squares / (n - 2) / sxx) };
}
