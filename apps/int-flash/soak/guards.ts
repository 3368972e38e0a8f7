import { spawn } from 'node:child_process';
import { networkInterfaces } from 'node:os';
import { SECURITY_HEADERS } from '../src/serve/guards.js';
import { loadWebPage } from '../src/serve/web-page.js';
import { isTyped } from '../test/fuzzed-request.js';
import { ask, chat, GUARDED_ROUTES, type Reply } from '../test/serve-harness.js';
import { anyOf, type FloodRequest, flood, randomWord, times } from './flood.js';
import type { Finding } from './record.js';
import { startMockServer } from './server-process.js';

const HOSTS = 20_000;
const KEYS = 20_000;
const ORIGINS = 10_000;
const KEY = 'Sesame-4711-Open';
const METHODS = ['GET', 'POST', 'PUT', 'DELETE', 'PATCH', 'OPTIONS', 'HEAD'];

/** S1: who is answered. Every answer, refusals too, must also have the headers of S11 and none that lets pages of other sites read it. */
export async function guards(): Promise<Finding[]> {
  const [open, locked] = await Promise.all([startMockServer({}), startMockServer({ apiKey: KEY })]);
  const routes = [...GUARDED_ROUTES, ...loadWebPage().files.keys()];
  let [hosts, keys, origins, bare, readable, untyped, controls] = [0, 0, 0, 0, 0, 0, 0];

  const look = (reply: Reply | undefined) => {
    const headers = reply?.headers ?? {};
    if (Object.entries(SECURITY_HEADERS).some(([name, value]) => headers[name] !== value)) bare++;
    if (Object.keys(headers).some((name) => name.startsWith('access-control-'))) readable++;
    if (reply && reply.status >= 400 && !isTyped(reply.text)) untyped++;
  };
  const any = (headers: Record<string, string>): FloodRequest => {
    const method = anyOf(METHODS);
    const path = Math.random() < 0.9 ? anyOf(routes) : `/${randomWord(8)}`;
    return { path, method, headers, ...(method === 'POST' ? { body: chat() } : {}) };
  };

  const foreign = times(HOSTS, () => ({
    ...any({ host: foreignHost(open.port) }),
    path: anyOf([...routes, '/health']),
  }));
  await flood(open, foreign, (reply) => {
    look(reply);
    if (reply?.status !== 403 && reply?.status !== 400) hosts++;
  });
  await flood(
    locked,
    times(KEYS, () => any(wrongKey())),
    (reply) => {
      look(reply);
      if (reply?.status !== 401) keys++;
    },
  );
  await flood(
    open,
    times(ORIGINS, () => any(foreignPage(open.port))),
    (reply) => {
      look(reply);
      if (reply?.status !== 403) origins++;
    },
  );

  // What a guard that refuses everybody would fail at.
  const basic = Buffer.from(`anybody:${KEY}`).toString('base64');
  for (const authorization of [`Bearer ${KEY}`, `bearer ${KEY}`, `Basic ${basic}`]) {
    for (const path of routes) {
      const reply = await ask(locked, path, { headers: { authorization } });
      look(reply);
      if (![200, 405].includes(reply.status)) controls++;
    }
  }
  for (const host of ['localhost', '127.0.0.1', '[::1]', `LOCALHOST:${open.port}`]) {
    for (const server of [open, locked]) {
      if ((await ask(server, '/health', { headers: { host } })).status !== 200) controls++;
    }
  }

  const failures = (await open.stats()).failures + (await locked.stats()).failures;
  const begun = (await open.stats()).begun + (await locked.stats()).begun;
  await Promise.all([open.stop(), locked.stop()]);
  const all = HOSTS + KEYS + ORIGINS;
  return [
    { what: `of ${HOSTS} with another Host, not refused`, value: hosts, unit: 'requests', bound: 0 },
    { what: `of ${KEYS} with a wrong key or none, not refused`, value: keys, unit: 'requests', bound: 0 },
    { what: `of ${ORIGINS} from pages of other sites, not refused`, value: origins, unit: 'requests', bound: 0 },
    { what: 'with the right key, name and page, not answered', value: controls, unit: 'requests', bound: 0 },
    { what: 'sequences begun for those refused', value: begun, unit: 'sequences', bound: 0 },
    {
      what: `of ${all} answers, without the policy or another security header`,
      value: bare,
      unit: 'answers',
      bound: 0,
    },
    { what: 'with a header for pages of other sites', value: readable, unit: 'answers', bound: 0 },
    { what: 'refusals not in the form {error}', value: untyped, unit: 'answers', bound: 0 },
    { what: 'failures of the server', value: failures, unit: 'failures', bound: 0 },
    {
      what: 'starts on other than loopback addresses without a key',
      value: await openStarts(),
      unit: 'starts',
      bound: 0,
    },
  ];
}

/** A name that is not this server's: made up, or made to look like one of its own. */
function foreignHost(port: number): string {
  const word = randomWord(1 + Math.floor(Math.random() * 20));
  return anyOf([
    `${word}.example`,
    `localhost.${word}`,
    `127.0.0.1.${word}.example:${port}`,
    `${word}.localhost`,
    `${word}localhost`,
    `localhost${word}`,
    'localhost.',
    'localhost:',
    `localhost:${port}:${port}`,
    `localhost@${word}`,
    `${word}@localhost`,
    `localhost/${word}`,
    `localhost, ${word}`,
    `127.0.0.${2 + Math.floor(Math.random() * 250)}`,
    `10.0.0.${Math.floor(Math.random() * 256)}:${port}`,
    '2130706433',
    '0x7f000001',
    '0177.0.0.1',
    '127.1',
    '0.0.0.0',
    '[::]',
    '[::ffff:127.0.0.1]',
    '[::1',
    '::1',
    `[fe80::${Math.floor(Math.random() * 65536).toString(16)}]`,
    'xn--lcalhost-c2a',
    '*',
    'null',
  ]);
}

/** A key that is nearly right, or none. */
function wrongKey(): Record<string, string> {
  const at = Math.floor(Math.random() * KEY.length);
  const flipped = KEY[at] === KEY[at]!.toLowerCase() ? KEY[at]!.toUpperCase() : KEY[at]!.toLowerCase();
  const changed = `${KEY.slice(0, at)}${flipped === KEY[at] ? '~' : flipped}${KEY.slice(at + 1)}`;
  const base64 = (text: string) => Buffer.from(text).toString('base64');
  return anyOf<Record<string, string>>([
    {},
    { authorization: `Bearer ${changed}` },
    { authorization: `Bearer ${KEY.slice(0, at)}` },
    { authorization: `Bearer ${KEY}${randomWord(1)}` },
    { authorization: `Bearer ${KEY} ${KEY}` },
    { authorization: `Bearer "${KEY}"` },
    { authorization: `Bearer ${encodeURIComponent(` ${KEY}`)}` },
    { authorization: `Bearer ${'x'.repeat(at * 500)}` },
    { authorization: KEY },
    { authorization: `Digest ${KEY}` },
    { authorization: `Basic ${KEY}` },
    { authorization: `Basic ${base64(`anybody:${changed}`)}` },
    { authorization: `Basic ${base64(`${KEY}:`)}` },
    { authorization: `Basic ${base64(`:${KEY}:`)}` },
    { 'x-api-key': KEY },
    { 'api-key': KEY },
    { cookie: `authorization=${KEY}; key=${KEY}` },
    { 'proxy-authorization': `Bearer ${KEY}` },
  ]);
}

/** What a browser sends for a page of another site. */
function foreignPage(port: number): Record<string, string> {
  const word = randomWord(6);
  return anyOf<Record<string, string>>([
    { origin: `http://${word}.example` },
    { origin: 'null' },
    { origin: `http://localhost:${port + 1}` },
    { origin: `http://127.0.0.1.${word}.example:${port}` },
    { origin: `http://127.0.0.1:${port}@${word}.example` },
    { origin: 'file://' },
    { origin: `chrome-extension://${word}` },
    { origin: word },
    { origin: '' },
    { 'sec-fetch-site': 'cross-site' },
    { 'sec-fetch-site': 'cross-site', origin: `http://127.0.0.1:${port}` },
  ]);
}

/** Of starts that should be refused. */
async function openStarts(): Promise<number> {
  const own = Object.values(networkInterfaces()).flatMap((all) => (all ?? []).map(({ address }) => address));
  const hosts = ['0.0.0.0', '::', '0', '::ffff:0.0.0.0', ...own.filter((address) => !/^(127\.|::1$)/.test(address))];
  let started = 0;
  for (const host of hosts) {
    const command = ['apps/int-flash/dist/cli.js', 'serve', 'models/int-flash-demo', '--port', '0', '--host', host];
    const env = { ...process.env, INT_FLASH_API_KEY: '' };
    const child = spawn(process.execPath, command, { stdio: ['ignore', 'pipe', 'ignore'], env });
    child.stdout.once('data', () => child.kill('SIGKILL')); // it listens
    const code = await new Promise((resolve) => child.once('exit', resolve));
    if (code !== 2) started++;
  }
  return started;
}
