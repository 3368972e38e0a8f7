import { once } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import { ask, CHAT, chat } from '../test/serve-harness.js';
import { readStream } from './event-reader.js';
import { type Finding, round } from './record.js';
import { startCommandServer } from './server-process.js';

const RUNS = 5;

/** S6: how a server with the demo model ends while it answers. */
export async function drain(): Promise<Finding[]> {
  const orderly = await worst(async () => {
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
  const second = await worst(async () => {
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
  const none = await worst(async () => {
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

async function worst(one: () => Promise<{ readonly ms: number; readonly wrong: number }>) {
  let [ms, wrong] = [0, 0];
  for (let i = 0; i < RUNS; i++) {
    const run = await one();
    ms = Math.max(ms, run.ms);
    wrong += run.wrong;
  }
  return { ms, wrong };
}

async function exitOf(child: { readonly exitCode: number | null } & NodeJS.EventEmitter): Promise<number | null> {
  return child.exitCode ?? ((await once(child, 'exit'))[0] as number | null);
}
