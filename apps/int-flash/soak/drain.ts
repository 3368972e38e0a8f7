import { once } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import { ask, CHAT, chat } from '../test/serve-harness.js';
import { readStream } from './event-reader.js';
import { type Finding, round } from './record.js';
import { startCommandServer } from './server-process.js';

const RUNS = 5;
const BUSY_RUNS = 3;
const RUNNING = 64;
const WAITING = 64;

/** S6: how a server with the demo model ends while it answers. */
export async function drain(): Promise<Finding[]> {
  const orderly = await worst(RUNS, async () => {
    const server = await startCommandServer();
    const stream = readStream(server.port, chat({ stream: true, max_tokens: 400, ignore_eos: true }));
    await sleep(300);
    server.child.kill('SIGTERM');
    await sleep(20);
    const late = await ask(server, CHAT, { body: chat() }).catch(() => undefined); // refused by the system, or 503
    const { isWhole } = await stream;
    const ended = performance.now();
    const code = await exitOf(server.child);
    return {
      ms: performance.now() - ended,
      wrong: Number(code !== 0 || !isWhole || (late !== undefined && late.status !== 503)),
    };
  });
  const busy = await worst(BUSY_RUNS, endUnderLoad);
  const second = await worst(RUNS, async () => {
    const server = await startCommandServer(['--drain', '3600']);
    void readStream(server.port, chat({ stream: true, max_tokens: 900, ignore_eos: true }));
    await sleep(300);
    server.child.kill('SIGTERM');
    await sleep(100);
    server.child.kill('SIGTERM');
    const asked = performance.now();
    const code = await exitOf(server.child);
    return { ms: performance.now() - asked, wrong: Number(code !== 143) };
  });
  const none = await worst(RUNS, async () => {
    const server = await startCommandServer(['--drain', '0']);
    const stream = readStream(server.port, chat({ stream: true, max_tokens: 900, ignore_eos: true }));
    await sleep(300);
    server.child.kill('SIGTERM');
    const asked = performance.now();
    const code = await exitOf(server.child);
    const { text } = await stream;
    return { ms: performance.now() - asked, wrong: Number(code !== 0 || !text.includes('"shutting_down"')) };
  });
  const seconds = (ms: number) => round(ms / 1000, 2);
  return [
    { what: 'exit after the last answer, at worst', value: seconds(orderly.ms), unit: 's', bound: 1 },
    {
      what: `exit of ${BUSY_RUNS} servers with ${RUNNING} streams and ${WAITING} waiting, after the last stream, at worst`,
      value: seconds(busy.ms),
      unit: 's',
      bound: 1,
    },
    {
      what: `of ${BUSY_RUNS * (RUNNING + WAITING)} requests then, neither finished nor, if they waited, refused with 503`,
      value: busy.wrong,
      unit: 'requests',
      bound: 0,
    },
    { what: 'exit after a second signal, at worst', value: seconds(second.ms), unit: 's', bound: 2 },
    { what: 'exit with --drain 0, at worst', value: seconds(none.ms), unit: 's', bound: 2 },
    {
      what: `ends of ${3 * RUNS} with another exit code, or an answer that did not end as it should`,
      value: orderly.wrong + second.wrong + none.wrong,
      unit: 'ends',
      bound: 0,
    },
  ];
}

/** SIGTERM while all places are taken and as many wait. */
async function endUnderLoad() {
  const server = await startCommandServer(['--max-running', String(RUNNING), '--max-waiting', String(WAITING)]);
  const streams = Array.from({ length: RUNNING + WAITING }, () =>
    readStream(server.port, chat({ stream: true, max_tokens: 60, ignore_eos: true })),
  );
  await sleep(1000);
  const exit = once(server.child, 'exit').then(([code]) => ({ code, at: performance.now() }));
  server.child.kill('SIGTERM');
  const ended = await Promise.all(streams);
  const last = Math.max(...ended.map(({ times }) => times.at(-1) ?? 0));
  const { code, at } = await exit;
  const finished = ended.filter(({ isWhole }) => isWhole).length;
  const refused = ended.filter(({ status, text }) => status === 503 && text.includes('"shutting_down"')).length;
  const isOrderly = code === 0 && finished >= RUNNING;
  return { ms: Math.max(at - last, 0), wrong: ended.length - finished - refused + Number(!isOrderly) };
}

async function worst(runs: number, one: () => Promise<{ readonly ms: number; readonly wrong: number }>) {
  let [ms, wrong] = [0, 0];
  for (let i = 0; i < runs; i++) {
    const run = await one();
    ms = Math.max(ms, run.ms);
    wrong += run.wrong;
  }
  return { ms, wrong };
}

async function exitOf(child: { readonly exitCode: number | null } & NodeJS.EventEmitter): Promise<number | null> {
  return child.exitCode ?? ((await once(child, 'exit'))[0] as number | null);
}
