import { connect, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { SERVE_DEFAULTS } from '../src/serve/serve-settings.js';
import { isTyped } from '../test/fuzzed-request.js';
import { ask, CHAT, chat } from '../test/serve-harness.js';
import { anyOf, type FloodRequest, flood, randomWord, times } from './flood.js';
import { type Finding, round } from './record.js';
import { startMockServer } from './server-process.js';

const REQUESTS = 20_000;
const BODIES = 400;
const BODY_BYTES = 2 * 1024 * 1024;
const SLOW = 100;
const CONNECTIONS = 1200;
const UNFINISHED = 1000;

interface TooMuch extends FloodRequest {
  readonly status: number;
  readonly code?: string;
}

/** S2: more than a limit allows, of everything that has one. */
export async function limits(): Promise<Finding[]> {
  const server = await startMockServer({});
  const { rss } = await server.stats();
  const slow = slowSenders(); // on a server of their own, meanwhile
  let [wrong, untyped] = [0, 0];
  await flood<TooMuch>(server, times(REQUESTS, tooMuch), (reply, { status, code }) => {
    if (reply?.status !== status || (code !== undefined && reply.json().error.code !== code)) wrong++;
    if (reply && !isTyped(reply.text)) untyped++;
  });
  let most = rss;
  const watch = setInterval(async () => {
    most = Math.max(most, (await server.stats()).rss);
  }, 50);
  const bodies = await tooLarge(server.port);
  clearInterval(watch);
  const { begun, failures } = await server.stats();
  const isAlive = (await ask(server, CHAT, { body: chat() })).status === 200;
  await server.stop();
  const unfinishedBytes = await unfinishedBodies();
  const connections = await tooManyConnections();
  const { headersMs, bodyMs, unanswered } = await slow;
  return [
    {
      what: `of ${REQUESTS} beyond a limit, answered otherwise than with its refusal`,
      value: wrong,
      unit: 'requests',
      bound: 0,
    },
    { what: 'refusals not in the form {error}', value: untyped, unit: 'answers', bound: 0 },
    { what: `of ${BODIES} bodies of 8 MiB, not answered with 413`, value: bodies, unit: 'bodies', bound: 0 },
    {
      what: 'memory while 32 at once send 8 MiB each, more than before',
      value: round(Math.max(most - rss, 0) / 1e6),
      unit: 'MB',
      bound: 200, // what a thousand streams may take
    },
    { what: 'sequences begun for those refused', value: begun, unit: 'sequences', bound: 0 },
    {
      what: 'failures of the server, or no answer afterwards',
      value: failures + Number(!isAlive),
      unit: 'failures',
      bound: 0,
    },
    {
      what: `memory that ${UNFINISHED} clients cost who send 2 MB of a body and stop`,
      value: round(unfinishedBytes / 1e6),
      unit: 'MB',
      bound: 200, // as above
    },
    {
      what: `connections held of ${CONNECTIONS}`,
      value: connections,
      unit: 'connections',
      bound: SERVE_DEFAULTS.maxConnections,
    },
    {
      what: `until the last of ${SLOW} slow headers was given up`,
      value: round(headersMs / 1000),
      unit: 's',
      bound: 12,
    },
    { what: `until the last of ${SLOW} slow bodies was given up`, value: round(bodyMs / 1000), unit: 's', bound: 32 },
    { what: 'of both, without a 408', value: unanswered, unit: 'connections', bound: 0 },
  ];
}

/** One request beyond one limit. */
function tooMuch(i: number): TooMuch {
  const more = 1 + Math.floor(Math.random() * 200);
  const text = { role: 'user', content: 'x' };
  const over = (body: unknown, code?: string): TooMuch => ({ path: CHAT, body, status: 400, ...(code && { code }) });
  const kinds: (() => TooMuch)[] = [
    () => over(`{"messages":${'['.repeat(63 + more)}${']'.repeat(63 + more)}}`, 'invalid_json'),
    () => over(`{"metadata":${'{"a":'.repeat(63 + more)}1${'}'.repeat(63 + more)}}`, 'invalid_json'),
    () => over({ messages: new Array(2048 + more).fill(text) }),
    () => over(chat({ n: anyOf([8 + more, -more, 0, 8.5, 1e6]) })),
    () => over(chat({ stop: new Array(4 + more).fill('a') })),
    () => over(chat({ stop: 'a'.repeat(128 + more) })),
    () => over(chat({ logit_bias: Object.fromEntries(Array.from({ length: 300 + more }, (_, id) => [id, 1])) })),
    () => over(chat({ logit_bias: { [255 + more]: 1 } })),
    () => over(chat({ max_tokens: 1019 + more }), 'context_length_exceeded'),
    () => over(chat({ max_tokens: anyOf([0, -more, 1.5, 1e9 + 1]) })),
    () => over(chat({ messages: [{ role: 'user', content: 'x'.repeat(1020 + more) }] }), 'context_length_exceeded'),
    () => over(chat({ top_logprobs: 20 + more, logprobs: true })),
    () => over(chat({ model: 'm'.repeat(256 + more) })),
    () => ({ path: '/v1/completions', body: { prompt: new Array(8 + more).fill('x') }, status: 400 }),
    () => ({ path: '/v1/completions', body: { prompt: new Array(1025 + more).fill(1) }, status: 400 }),
    () => ({ path: '/v1/completions', body: { prompt: ['x', 'y', 'z'], n: 3 }, status: 400 }),
    () => ({ path: '/api/attention-lab', body: { family: 'x'.repeat(16_385 + more) }, status: 413 }),
    () => ({
      path: anyOf(['/health', CHAT, '/']),
      headers: { [`x-${randomWord(4)}`]: 'y'.repeat(16_384 + more) },
      status: 431,
    }),
  ];
  return kinds[i % kinds.length]!();
}

/** Bodies of 8 MiB, with their length said before or in chunks. @returns how many of their senders did not hear of the limit. */
async function tooLarge(port: number): Promise<number> {
  const chunk = Buffer.alloc(64 * 1024, 'x');
  let other = 0;
  let left = BODIES;
  const one = (isChunked: boolean) =>
    new Promise<void>((resolve) => {
      const socket = connect({ port, host: '127.0.0.1' });
      const length = isChunked ? 'transfer-encoding: chunked' : `content-length: ${4 * BODY_BYTES}`;
      let text = '';
      let sent = 0;
      const send = () => {
        while (sent < 4 * BODY_BYTES && !socket.destroyed) {
          sent += chunk.length;
          if (isChunked) socket.write(`${chunk.length.toString(16)}\r\n`);
          const isFlowing = socket.write(chunk);
          if (isChunked) socket.write('\r\n');
          if (!isFlowing) return;
        }
      };
      socket.setEncoding('utf8').on('data', (piece) => {
        text += piece;
        if (text.includes('body_too_large')) socket.destroy();
      });
      socket.on('drain', send);
      socket.on('error', () => {}); // closed by the server while more is sent
      socket.on('close', () => {
        if (!/^HTTP\/1\.1 413 /.test(text)) other++;
        resolve();
      });
      socket.write(`POST ${CHAT} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n${length}\r\n\r\n`);
      send();
    });
  const work = async () => {
    while (left-- > 0) await one(left % 2 === 0);
  };
  await Promise.all(Array.from({ length: 32 }, work));
  return other;
}

/** Headers and bodies that come a byte a second. @returns how long the last of each was waited for. */
async function slowSenders() {
  const server = await startMockServer({});
  const head = `POST ${CHAT} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n`;
  let unanswered = 0;
  const until = (start: string) =>
    new Promise<number>((resolve) => {
      const socket = connect({ port: server.port, host: '127.0.0.1' });
      const began = performance.now();
      let text = '';
      const drip = setInterval(() => socket.write('x'), 1000);
      socket.setEncoding('utf8').on('data', (piece) => {
        text += piece;
      });
      socket.on('error', () => {});
      socket.on('close', () => {
        clearInterval(drip);
        if (!/^HTTP\/1\.1 408 /.test(text)) unanswered++;
        resolve(performance.now() - began);
      });
      socket.write(start);
    });
  const all = (start: string) => Promise.all(Array.from({ length: SLOW }, () => until(start)));
  const [headers, bodies] = await Promise.all([all(`${head}x-slow: `), all(`${head}content-length: 1000\r\n\r\n`)]);
  await server.stop();
  return { headersMs: Math.max(...headers), bodyMs: Math.max(...bodies), unanswered };
}

/** Bodies that are within their limit, and never end. @returns what they cost the server. */
async function unfinishedBodies(): Promise<number> {
  const server = await startMockServer({});
  const { rss } = await server.stats();
  const head = `POST ${CHAT} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 2000001\r\n\r\n`;
  const body = Buffer.concat([Buffer.from(head), Buffer.alloc(2_000_000, 'x')]);
  const sockets: Socket[] = [];
  let most = rss;
  for (let i = 0; i < UNFINISHED; i++) {
    const socket = connect({ port: server.port, host: '127.0.0.1' });
    socket.on('error', () => {}); // refused while it sends
    socket.resume().write(body);
    sockets.push(socket);
    if (i % 20 === 19) {
      await sleep(20);
      most = Math.max(most, (await server.stats()).rss);
    }
  }
  await sleep(500);
  most = Math.max(most, (await server.stats()).rss);
  for (const socket of sockets) socket.destroy();
  await server.stop();
  return most - rss;
}

/** Connections that send nothing. @returns how many of them stay. */
async function tooManyConnections(): Promise<number> {
  const server = await startMockServer({});
  const sockets: Socket[] = [];
  let closed = 0;
  for (let i = 0; i < CONNECTIONS; i++) {
    const socket = connect({ port: server.port, host: '127.0.0.1' });
    socket.on('error', () => {});
    socket.on('close', () => closed++);
    sockets.push(socket);
    if (i % 100 === 99) await sleep(50); // no more at once than the system's queue takes
  }
  await sleep(1000);
  const held = CONNECTIONS - closed;
  for (const socket of sockets) socket.destroy();
  await server.stop();
  return held;
}
