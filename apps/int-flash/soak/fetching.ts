import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { loadWebPage } from '../src/serve/web-page.js';
import { CHAT, chat } from '../test/serve-harness.js';
import { anyOf, type FloodRequest, flood, randomWord, times } from './flood.js';
import type { Finding } from './record.js';
import { startMockServer } from './server-process.js';

const ADDRESSES = 20_000;
const PATHS = 20_000;

interface Asked extends FloodRequest {
  /** What it must be answered with; 200 where an address is no more than text. */
  readonly status: number;
}

/** S12: addresses and paths of files in every place that a request has; the server asks nobody and opens nothing. */
export async function fetching(): Promise<Finding[]> {
  let heard = 0;
  const listener = createServer((_, response) => response.end('heard'));
  listener.on('connection', () => heard++);
  await new Promise<void>((resolve) => listener.listen(0, '127.0.0.1', resolve));
  const { port } = listener.address() as AddressInfo;
  const secret = `secret-${randomWord(20)}`;
  process.env.SOAK_SECRET = secret; // the server inherits it, so /proc/self/environ would tell
  const server = await startMockServer({ maxRunning: 1024 });
  delete process.env.SOAK_SECRET;

  let [wrong, odd, told] = [0, 0, 0];
  await flood<Asked>(
    server,
    times(ADDRESSES, (i) => withAddress(i, port)),
    (reply, { status }) => {
      if (reply?.status !== status) wrong++;
      if (reply?.text.includes(secret)) told++;
    },
  );
  const page = loadWebPage();
  const known = new Set([...page.files.values()].map(({ body }) => Buffer.from(body).toString('utf8')));
  await flood(
    server,
    times(PATHS, () => ({ path: oddPath([...page.files.keys()]) })),
    (reply) => {
      if (reply?.status === 200 ? !known.has(reply.text) : ![400, 404].includes(reply?.status ?? 0)) odd++;
      if (reply?.text.includes(secret)) told++;
    },
  );
  const { failures } = await server.stats();
  await server.stop();
  listener.close();
  return [
    {
      what: `of ${ADDRESSES} requests with an address, answered otherwise than they should be`,
      value: wrong,
      unit: 'requests',
      bound: 0,
    },
    { what: 'connections that the server opened to those addresses', value: heard, unit: 'connections', bound: 0 },
    {
      what: `of ${PATHS} odd paths, answered with what is not a file of the page`,
      value: odd,
      unit: 'answers',
      bound: 0,
    },
    { what: 'answers with a word of the server’s environment', value: told, unit: 'answers', bound: 0 },
    { what: 'failures of the server', value: failures, unit: 'failures', bound: 0 },
  ];
}

function withAddress(i: number, port: number): Asked {
  const url = anyOf([
    `http://127.0.0.1:${port}/${randomWord(6)}`,
    `http://localhost:${port}/x.png`,
    `//127.0.0.1:${port}/x`,
    `http://[::ffff:127.0.0.1]:${port}/`,
    'file:///proc/self/environ',
    '/proc/self/environ',
    '../../package.json',
    `ftp://127.0.0.1:${port}/`,
    `data:text/html,<img src=http://127.0.0.1:${port}/>`,
  ]);
  const part = (content: object) => ({
    path: CHAT,
    body: chat({ messages: [{ role: 'user', content: [content] }] }),
    status: 400,
  });
  const field = (more: Record<string, unknown>, status = 400) => ({ path: CHAT, body: chat(more), status });
  const kinds: (() => Asked)[] = [
    () => part({ type: 'image_url', image_url: { url } }),
    () => part({ type: 'image_url', image_url: url }),
    () => part({ type: 'input_image', image_url: url }),
    () => part({ type: 'image', source: { type: 'url', url } }),
    () => part({ type: 'file', file: { file_data: url, filename: url } }),
    () => part({ type: 'input_file', file_url: url }),
    () => part({ type: 'input_audio', input_audio: { data: url, format: 'wav' } }),
    () => part({ type: 'video_url', video_url: { url } }),
    () => part({ type: 'text', text: 'x', image_url: url }),
    () => field({ documents: [{ url }] }),
    () => field({ chat_template: `{% include "${url}" %}` }),
    () => field({ tools: [{ type: 'mcp', server_url: url }] }),
    () => field({ response_format: { type: 'json_schema', json_schema: { $ref: url } } }),
    () => field({ web_search_options: { url } }),
    () => field({ model: url }, 404),
    () => field({ metadata: { url }, user: url }, 200),
    () => field({ messages: [{ role: 'user', content: `![x](${url}) <img src="${url}">` }] }, 200),
    () => ({ path: '/v1/completions', body: { prompt: url, max_tokens: 2 }, status: 200 }),
    () => ({ path: '/v1/completions', body: { prompt: 'x', suffix: url }, status: 400 }),
    () => ({ path: '/api/attention-lab', body: { family: url }, status: 400 }),
    () => ({ path: `/v1/models/${encodeURIComponent(url)}`, status: 404 }),
  ];
  return kinds[i % kinds.length]!();
}

/** A path that leads out of a folder, or hides that it does. */
function oddPath(paths: readonly string[]): string {
  const up = anyOf([
    '../',
    '..%2f',
    '%2e%2e/',
    '%2e%2e%2f',
    '..\\',
    '..%5c',
    '....//',
    '..;/',
    '%252e%252e%252f',
    './',
    '//',
    '%00',
  ]);
  const target = anyOf([
    'etc/passwd',
    'proc/self/environ',
    'package.json',
    'files.json',
    'src/cli.ts',
    'index.html',
    '.env',
    '',
  ]);
  const base = anyOf(paths);
  const repeated = up.repeat(1 + Math.floor(Math.random() * 8));
  return anyOf([
    `/${repeated}${target}`,
    `/assets/${repeated}${target}`,
    `${base}/${repeated}${target}`,
    `${base}${up}`,
    `${base}%00.html`,
    `${base}~`,
    `${base}.map`,
    base.toUpperCase() === base ? `/${target}` : base.toUpperCase(),
    `/${encodeURIComponent(`/${target}`)}`,
    `/file:///${target}`,
  ]);
}
