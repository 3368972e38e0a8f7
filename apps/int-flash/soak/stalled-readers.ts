import { connect, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { loadWebPage } from '../src/serve/web-page.js';
import { CHAT, chat } from '../test/serve-harness.js';
import { type Finding, round } from './record.js';
import { startMockServer } from './server-process.js';

const READERS = 100;
const TOKENS = 1000;
const TOKEN_CHARACTERS = 16_384; // 16 MB a stream: more than the system buffers for a connection
const WHOLE_CHARACTERS = 1_400_000;
const WHOLE_MS = 8000;
const PATIENCE_MS = 30_000; // the default, of which the server is told nothing here

/** S5: clients that ask for much and read nothing; what they cost, and whether they are given up in time. */
export async function stalledReaders(): Promise<Finding[]> {
  const streams = await stalledStreams();
  return [...streams, ...(await stalledWholes()), ...(await stalledPages())];
}

/** Of the page's largest file, asked for a thousand times on each connection before the first answer is there. */
async function stalledPages(): Promise<Finding[]> {
  const server = await startMockServer({});
  const { rss } = await server.stats();
  const [path] = [...loadWebPage().files].sort(([, a], [, b]) => b.body.length - a.body.length)[0]!;
  const request = `GET ${path} HTTP/1.1\r\nhost: localhost\r\n\r\n`;
  const sockets = Array.from({ length: READERS }, () => stalled(server.port, request.repeat(1000)));
  let most = rss;
  for (let i = 0; i < 30; i++) {
    await sleep(100);
    most = Math.max(most, (await server.stats()).rss);
  }
  for (const socket of sockets) socket.destroy();
  await server.stop();
  return [
    {
      what: `memory that ${READERS} readers of the page cost who ask for it 1000 times and stall, at most`,
      value: round((most - rss) / 1e6),
      unit: 'MB',
      bound: 120,
    },
  ];
}

/** Of whole answers as long as the demo model's can be: a thousand tokens, each with twenty others and what they were likely to be. */
async function stalledWholes(): Promise<Finding[]> {
  const server = await startMockServer({ tokenCharacters: WHOLE_CHARACTERS / TOKENS, maxWaiting: READERS });
  const { rss } = await server.stats();
  const sockets = Array.from({ length: READERS }, () => stall(server.port, false));
  let most = rss;
  const started = performance.now();
  while (performance.now() - started < WHOLE_MS) {
    await sleep(100);
    most = Math.max(most, (await server.stats()).rss);
  }
  const { running, failures } = await server.stats();
  for (const socket of sockets) socket.destroy();
  await sleep(500);
  const after = await server.stats();
  await server.stop();
  return [
    {
      what: `memory that ${READERS} readers of whole answers cost who stall, at most`,
      value: round((most - rss) / 1e6),
      unit: 'MB',
      bound: 200, // what a thousand streams may take; 64 of these lie in memory whole
    },
    { what: 'of them, in a place beyond the 64', value: Math.max(running - 64, 0), unit: 'places', bound: 0 },
    { what: 'places held when they had gone', value: after.running, unit: 'places', bound: 0 },
    { what: 'failures of the server', value: failures, unit: 'failures', bound: 0 },
  ];
}

async function stalledStreams(): Promise<Finding[]> {
  const server = await startMockServer({ tokenMs: 1, tokenCharacters: TOKEN_CHARACTERS, maxRunning: READERS });
  const { rss } = await server.stats();
  const sockets = Array.from({ length: READERS }, () => stall(server.port, true));
  let most = rss;
  let stalledAt = 0;
  const started = performance.now();
  while (performance.now() - started < PATIENCE_MS + 15_000) {
    await sleep(250);
    const stats = await server.stats();
    most = Math.max(most, stats.rss);
    stalledAt ||= stats.sequences === READERS ? performance.now() : 0;
    if (stats.sequences === 0) break;
  }
  const heldForMs = performance.now() - stalledAt;
  const after = await server.stats();
  for (const socket of sockets) socket.destroy();
  await server.stop();
  return [
    {
      what: `memory that ${READERS} stalled readers cost, at most`,
      value: round((most - rss) / 1e6),
      unit: 'MB',
      bound: 120,
    },
    { what: 'sequences held when they were given up', value: after.sequences, unit: 'sequences', bound: 0 },
    { what: 'failures of the server', value: after.failures, unit: 'failures', bound: 0 },
    {
      what: 'until the last was given up',
      value: round(heldForMs / 1000),
      unit: 's',
      bound: PATIENCE_MS / 1000 + 10, // the system's buffers fill first
    },
  ];
}

function stall(port: number, stream: boolean): Socket {
  const payload = JSON.stringify(chat({ max_tokens: TOKENS, stream }));
  const head = `POST ${CHAT} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: ${Buffer.byteLength(payload)}\r\n\r\n`;
  return stalled(port, head + payload);
}

function stalled(port: number, request: string): Socket {
  const socket = connect({ port, host: '127.0.0.1' });
  socket.pause();
  socket.on('error', () => {}); // the server cuts it off
  socket.write(request);
  return socket;
}
