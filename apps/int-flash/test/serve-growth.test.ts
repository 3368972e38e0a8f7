// That nothing is left behind: a server with a mock engine in a process of its own, so that what it holds is its alone, asked what it
// holds before and after. `npm run soak` asks longer, until resident memory has shown whether it grows.
import { execFileSync } from 'node:child_process';
import { Agent } from 'node:http';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeAll, expect, it } from 'vitest';
import { readStream } from '../soak/event-reader.js';
import { type MockServer, type ServerStats, startMockServer } from '../soak/server-process.js';
import { isAnsweredRight } from '../soak/steady-requests.js';
import { chat } from './serve-harness.js';

const app = fileURLToPath(new URL('../', import.meta.url));
const TSUP = fileURLToPath(new URL('../../../node_modules/tsup/dist/cli-default.js', import.meta.url));
const PROGRAM = fileURLToPath(new URL('../build/mock-server-alone.js', import.meta.url));

/**
 * Node itself still grows here, by some 100 bytes a stream and 400 a request, as its code is compiled anew; one request that is kept, with
 * its headers, body and answer, is several thousand.
 */
const BYTES_EACH = 2000;

let server: MockServer | undefined;

beforeAll(() => {
  execFileSync(process.execPath, [TSUP, '--config', 'tsup.mock-server.config.ts'], { cwd: app });
});

afterEach(async () => {
  await server?.stop();
  server = undefined;
});

/** What the server holds when no request is under way and the connections of those there were are closed. */
async function rest(server: MockServer, { descriptors, handles }: ServerStats) {
  await expect
    .poll(async () => {
      const now = await server.stats();
      return {
        underWay: now.underWay,
        sequences: now.sequences,
        descriptors: Math.max(now.descriptors - descriptors, 0),
        handles: Math.max(now.handles - handles, 0),
      };
    })
    .toEqual({ underWay: 0, sequences: 0, descriptors: 0, handles: 0 });
  return server.collectedStats();
}

it('holds after 800 streams, 200 at once, what it held before them, and loses none', async () => {
  const [STREAMS, TOKENS] = [200, 10];
  const own = await startMockServer({ tokenMs: 5, maxRunning: STREAMS }, PROGRAM);
  server = own;
  const idle = await own.stats();
  const batch = async () => {
    const streams = await Promise.all(
      Array.from({ length: STREAMS }, () => readStream(own.port, chat({ max_tokens: TOKENS, stream: true }))),
    );
    const tokens = streams.map(({ text }) => text.match(/"content":"w/g)?.length ?? 0);
    expect({ whole: streams.filter(({ isWhole }) => isWhole).length, least: Math.min(...tokens) }).toEqual({
      whole: STREAMS,
      least: TOKENS,
    });
  };
  for (let i = 0; i < 2; i++) await batch(); // what is compiled and allocated once is not what is asked
  const before = await rest(own, idle);
  for (let i = 0; i < 4; i++) await batch();
  const after = await rest(own, idle);
  expect(after).toMatchObject({ begun: 6 * STREAMS, running: 0, kvCacheBytes: 0, failures: 0 });
  expect(after.heapBytes - before.heapBytes).toBeLessThan(4 * STREAMS * BYTES_EACH);
});

it('holds after 2000 requests, good ones, bad ones and ones hung up on, what it held before them', async () => {
  const AT_ONCE = 16;
  const own = await startMockServer({ maxRunning: AT_ONCE }, PROGRAM);
  server = own;
  const idle = await own.stats();
  const all = async (requests: number) => {
    const agent = new Agent({ keepAlive: true, maxSockets: AT_ONCE });
    let left = requests;
    let wrong = 0;
    const work = async () => {
      while (left > 0) if (!(await isAnsweredRight(own, agent, left--))) wrong++;
    };
    await Promise.all(Array.from({ length: AT_ONCE }, work));
    agent.destroy();
    expect(wrong).toBe(0);
  };
  await all(1000);
  const before = await rest(own, idle);
  await all(2000);
  const after = await rest(own, idle);
  expect(after).toMatchObject({ running: 0, kvCacheBytes: 0, failures: 0 });
  expect(after.heapBytes - before.heapBytes).toBeLessThan(2000 * BYTES_EACH);
});
