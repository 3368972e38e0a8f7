import { once } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import { isTyped } from '../test/fuzzed-request.js';
import { ask, CHAT, chat, open } from '../test/serve-harness.js';
import { anyOf, type FloodRequest, flood, randomWord, times } from './flood.js';
import type { Finding } from './record.js';
import { startCommandServer } from './server-process.js';

const REQUESTS = 10_000;
const CRASHES = 5;
/** A path, an address in memory, a line of a stack. */
const INNARDS = /(?:^|[\s"'(])(?:\/|[A-Za-z]:\\)[\w.-]+[/\\]|0x[0-9a-f]{6}|\bat \S+ \(|node:internal/;

/** S10: a secret word in every place of a request, under load; where it must not be seen, and what a server that crashes says. */
export async function privacy(): Promise<Finding[]> {
  const word = `canary${randomWord(16)}`;
  const key = `key-${word}`;
  let output = '';
  const server = await startCommandServer([], {
    env: { INT_FLASH_API_KEY: key, INT_FLASH_DEBUG: '', NO_COLOR: '1' },
    onOutput: (text) => {
      output += text;
    },
  });
  const authorization = `Bearer ${key}`;
  let [odd, inside] = [0, 0];
  let metrics = '';
  await flood(
    server,
    times(REQUESTS, (i) => withWord(i, word, authorization)),
    (reply) => {
      if (!reply || (reply.status >= 400 && !isTyped(reply.text)) || reply.status === 500) odd++;
      if (reply && reply.status >= 400 && INNARDS.test(JSON.parse(reply.text || '{"error":{}}').error.message))
        inside++;
    },
  );
  const hungUp = Array.from({ length: 100 }, (_, i) => hangUp(server.port, word, authorization, i));
  await Promise.all(hungUp);
  metrics = (await ask(server, '/metrics', { headers: { authorization } })).text;
  const served = Number(/^process_resident_memory_bytes (\d+)/m.test(metrics));
  await server.stop();
  const crashed = await crashes();
  return [
    {
      what: `of ${REQUESTS} requests with a secret word, not answered or with 500`,
      value: odd,
      unit: 'requests',
      bound: 0,
    },
    { what: 'times the word is in what the server wrote', value: count(output, word), unit: 'times', bound: 0 },
    { what: 'times it is in /metrics', value: count(metrics, word) + Number(served === 0), unit: 'times', bound: 0 },
    {
      what: 'control characters in what the server wrote',
      value: controls(output),
      unit: 'characters',
      bound: 0,
    },
    { what: 'refusals with a path, an address or a stack', value: inside, unit: 'answers', bound: 0 },
    {
      what: `of ${CRASHES} servers made to run out of memory, still alive`,
      value: CRASHES - crashed.ended,
      unit: 'servers',
      bound: 0,
    },
    { what: 'times the word is in what they said at their end', value: crashed.told, unit: 'times', bound: 0 },
  ];
}

function withWord(i: number, word: string, authorization: string): FloodRequest {
  const said = anyOf([word, `${word}\u001b[31m`, `/home/${word}/model.bin`, `${word}\r\n${word}`, `\u202e${word}\0`]);
  const inHeader = said.replace(/[^\x20-\x7e]/g, '');
  const path = encodeURIComponent(said);
  const headers = { authorization };
  const post = (body: unknown, to = CHAT): FloodRequest => ({ path: to, body, headers });
  const kinds: (() => FloodRequest)[] = [
    () => post(chat({ messages: [{ role: 'user', content: said }], max_tokens: 2, stream: i % 2 === 0 })),
    () => post({ prompt: said, max_tokens: 1, stop: word }, '/v1/completions'),
    () => post(chat({ model: said })),
    () => post(chat({ user: said, metadata: { [said]: said }, temperature: 'hot' })),
    () => post(chat({ [said]: said })),
    () => post(chat({ stop: said.repeat(20) })),
    () => post(chat({ logit_bias: { [said]: 1 } })),
    () => post(chat({ messages: [{ role: said, content: 'x' }] })),
    () => post(chat({ messages: [{ role: 'user', content: [{ type: 'file', file: { filename: said } }] }] })),
    () => post(`{"${said}`),
    () => post(chat({ messages: [{ role: 'user', content: said.repeat(1000) }] })),
    () => post({ family: said, [said]: 1 }, '/api/attention-lab'),
    () => ({ path: `/v1/models/${path}`, headers }),
    () => ({ path: `/${path}?key=${path}`, headers }),
    () => ({ path: '/v1/models', headers: { authorization: `Bearer ${inHeader}` } }),
    () => ({ path: '/v1/models', headers: { authorization: `Basic ${Buffer.from(said).toString('base64')}` } }),
    () => ({ path: '/health', headers: { host: word } }),
    () => ({ path: '/v1/models', headers: { ...headers, origin: `http://${word}.example` } }),
    () => ({
      path: '/v1/models',
      headers: { ...headers, 'user-agent': inHeader, referer: inHeader, cookie: inHeader },
    }),
    () => ({ ...post(chat()), headers: { ...headers, 'content-type': inHeader, 'content-encoding': inHeader } }),
  ];
  return kinds[i % kinds.length]!();
}

/** Leaves while it is answered: what is under way is what an error would speak of. */
async function hangUp(port: number, word: string, authorization: string, i: number): Promise<void> {
  const body = chat({ messages: [{ role: 'user', content: word }], max_tokens: 200, stream: i % 2 === 0 });
  const outgoing = open({ port }, CHAT, { body, headers: { authorization } }, (response) =>
    response.on('error', () => {}),
  );
  outgoing.on('error', () => {});
  setTimeout(() => outgoing.destroy(), Math.random() * 200);
  await new Promise((resolve) => outgoing.once('close', resolve));
}

/** Servers with so little memory that requests full of the word end them, as V8 ends a process. */
async function crashes() {
  let [ended, told] = [0, 0];
  for (let i = 0; i < CRASHES; i++) {
    const word = `canary${randomWord(16)}`;
    let output = '';
    const server = await startCommandServer(['--max-waiting', '1024'], {
      env: { NODE_OPTIONS: '--max-old-space-size=24', INT_FLASH_API_KEY: '', NO_COLOR: '1' },
      onOutput: (text) => {
        output += text;
      },
    });
    const end = once(server.child, 'exit');
    const metadata = Object.fromEntries(Array.from({ length: 20_000 }, (_, at) => [`${at} ${word}`, [word, at]]));
    const body = JSON.stringify(
      chat({ metadata, messages: [{ role: 'user', content: word }], max_tokens: 900, ignore_eos: true }),
    );
    const sent = Array.from({ length: 100 }, () => ask(server, CHAT, { body }).catch(() => undefined));
    await Promise.all(sent);
    const isOver = await Promise.race([end.then(() => true), sleep(5000, false)]); // the system writes its memory down first
    if (isOver) ended++;
    else await server.stop();
    told += count(output, word);
  }
  return { ended, told };
}

function count(text: string, word: string): number {
  return text.split(word).length - 1;
}

/** All but those that end lines. */
function controls(text: string): number {
  return [...text].filter((char) => (char < ' ' && char !== '\n' && char !== '\t') || char === '\x7f').length;
}
