// Whether the shipped model's logits have the same bits run after run (D1), alone and among others (D2) and, on a CPU, with any number of threads
// (D3); and whether a server says one text under any load (D4). Prints a table and writes it after each line to docs/results/cpu/determinism.jsonl, of a
// GPU to docs/results/h200. Build first.
//   node apps/int-flash/bench/determinism.bench.mjs [--backend cpu|portable|cuda] [--completions 1000] [--commit name]
import { spawn, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdirSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { status } from '../../../packages/attention/dist/index.js';
import { loadModel } from '../../../packages/llm/dist/index.js';
import { countsOf, namesOf } from '../../../tools/listed-options.mjs';
import { measuredOn } from '../../../tools/measured-on.mjs';

const hasNative = status().backends.some(({ name, available }) => name === 'cpu' && available);
const { values: given } = parseArgs({
  options: {
    backend: { type: 'string', default: hasNative ? 'cpu' : 'portable' },
    completions: { type: 'string', default: '1000' },
    commit: { type: 'string' },
    digests: { type: 'string' }, // a process that this one starts: prints its digests with so many threads
  },
  strict: false, // `npm run bench` hands every benchmark the same arguments
});
const root = fileURLToPath(new URL('../../../', import.meta.url));
const model = `${root}models/int-flash-demo`;
const [asked] = namesOf('backend', given.backend, ['cpu', 'portable', 'cuda']);
const isGpu = asked === 'cuda';
const [completions] = countsOf('completions', given.completions, 0);
const results = `docs/results/${isGpu ? 'h200' : 'cpu'}`;
/** 32 shapes: prompts of less than a page, around one, around a chunk, and several; with each way of keeping keys and values. */
const LENGTHS = isGpu ? [1, 7, 63, 64, 65, 300, 515, 900] : [1, 7, 20, 63, 64, 65, 130, 300];
const WAYS = [
  { attention: 'int8', kvCacheDtype: 'int8' },
  { attention: 'int8', kvCacheDtype: 'int4' },
  { attention: 'fp32', kvCacheDtype: 'fp32' },
  { attention: 'fp32', kvCacheDtype: 'fp16' },
];
const SHAPES = WAYS.flatMap((way) => LENGTHS.map((length) => ({ ...way, length })));
const TOKENS = 4;
const MOST_AT_ONCE = 32;

/** A digest of what an answer says and of every token's probability: equal ones mean equal logits. */
async function digest(loaded, { length, ...way }, seed = 0) {
  const ids = Array.from({ length }, (_, i) => 3 + ((i * 37 + length * 101 + seed * 977) % 4000));
  const hash = createHash('sha256');
  const options = { ...way, temperature: 0, maxTokens: TOKENS, ignoreEos: true, logprobs: 3 };
  for await (const token of loaded.generate(ids, options)) hash.update(JSON.stringify(token));
  return hash.digest('hex');
}

/** @param threads 0: as many as it takes by itself */
function load(threads = 0) {
  return loadModel(model, { backend: asked, prefixCache: false, ...(threads > 0 && { threads }) });
}

if (given.digests !== undefined) {
  const loaded = await load(Number(given.digests));
  const all = [];
  for (const shape of SHAPES) all.push(await digest(loaded, shape));
  await loaded.dispose();
  console.log(JSON.stringify(all));
  process.exit(0);
}

/** In a process of its own. */
function digestsElsewhere(threads) {
  const args = [fileURLToPath(import.meta.url), '--backend', asked, '--digests', String(threads)];
  const { stdout, status: code } = spawnSync(process.execPath, args, { stdio: ['ignore', 'pipe', 'inherit'] });
  if (code !== 0) throw new Error(`Expected another process to compute the same answers, it ended with ${code}`);
  return JSON.parse(stdout.toString());
}

const differing = (some, others) => some.filter((value, i) => value !== others[i]).length;
const loaded = await load();
const { name, isa, detail } = loaded.status().backend;
const { commit, cpu } = measuredOn();
const origin = {
  commit: given.commit ?? commit,
  cpu,
  ...(isGpu && { gpu: detail.split(' (')[0] }),
  backend: `${name} (${isa})`,
};
const lines = [];
mkdirSync(root + results, { recursive: true });

function record(promise, what, value, of) {
  lines.push({ determinism: promise, ...origin, what, value, of });
  console.log(`${promise}  ${what}: ${value} of ${of}`);
  writeFileSync(`${root}${results}/determinism.jsonl`, lines.map((line) => `${JSON.stringify(line)}\n`).join(''));
}

const hasThreads = name === 'cpu';
const fewest = hasThreads ? 1 : 0;
const once = digestsElsewhere(fewest);
record('D1', 'answers that differ in a second process', differing(digestsElsewhere(fewest), once), SHAPES.length);
for (const threads of hasThreads ? [2, 4, 8] : [])
  record(
    'D3',
    `answers that differ with ${threads} threads from those with 1`,
    differing(digestsElsewhere(threads), once),
    SHAPES.length,
  );

for (const batch of [7, 64]) {
  let different = 0;
  for (let first = 0; first < SHAPES.length; first += batch) {
    const wanted = SHAPES.slice(first, first + batch);
    // Neighbours fill the batch; every second time the order is turned round.
    const neighbours = Array.from({ length: batch - wanted.length }, (_, i) => SHAPES[(first + 5 * i) % SHAPES.length]);
    const jobs = [...wanted.map((shape) => [shape, 0]), ...neighbours.map((shape) => [shape, 1])];
    if ((first / batch) % 2 === 1) jobs.reverse();
    const told = await Promise.all(jobs.map(([shape, seed]) => digest(loaded, shape, seed)));
    wanted.forEach((shape, i) => {
      const at = jobs.findIndex(([job, seed]) => job === shape && seed === 0);
      if (told[at] !== once[first + i]) different++;
    });
  }
  record('D2', `answers that differ among ${batch} from those alone`, different, SHAPES.length);
}
// The comparison can fail: a prompt cut otherwise gives coded keys another offset.
const cut = [];
for (const { length, ...way } of SHAPES.slice(0, LENGTHS.length))
  cut.push(await digest(loaded, { ...way, length, prefillChunk: 16 }));
record('D2', 'answers in INT8 that differ when the prompt is cut in 16', differing(cut, once), LENGTHS.length);
await loaded.dispose();

if (completions > 0) {
  const server = await startServer();
  try {
    for (const [how, sampling] of [
      ['at temperature 0', { temperature: 0 }],
      ['at temperature 1 with a seed', { temperature: 1, seed: 12 }],
    ])
      record('D4', `distinct texts of a server ${how}`, (await askOften(server.url, sampling)).size, completions);
  } finally {
    await server.stop();
  }
}

/** The same request, 1 to {@link MOST_AT_ONCE} at a time, each a moment later than the last. */
async function askOften(url, sampling) {
  const body = JSON.stringify({
    messages: [{ role: 'user', content: 'Tell me a story about a king and a bird.' }],
    max_tokens: 12,
    ignore_eos: true,
    ...sampling,
  });
  const ask = async () => {
    await new Promise((resolve) => setTimeout(resolve, Math.random() * 20));
    const headers = { 'content-type': 'application/json' };
    const reply = await fetch(`${url}/v1/chat/completions`, { method: 'POST', headers, body });
    if (reply.status !== 200) throw new Error(`Expected an answer, got ${reply.status}: ${await reply.text()}`);
    return (await reply.json()).choices[0].message.content;
  };
  const texts = new Set();
  for (let done = 0; done < completions; ) {
    const count = Math.min(1 + Math.floor(Math.random() * MOST_AT_ONCE), completions - done);
    for (const text of await Promise.all(Array.from({ length: count }, ask))) texts.add(text);
    done += count;
  }
  return texts;
}

async function startServer() {
  const cli = fileURLToPath(new URL('../dist/cli.js', import.meta.url));
  const args = [cli, 'serve', model, '--port', '0', '--quiet', '--backend', asked];
  const child = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'inherit'] });
  const ended = new Promise((resolve) => child.on('exit', resolve));
  const url = await new Promise((resolve, reject) => {
    let text = '';
    child.stdout.setEncoding('utf8').on('data', (chunk) => {
      text += chunk;
      const [found] = /http:\/\/127\.0\.0\.1:\d+/.exec(text) ?? [];
      if (found) resolve(found);
    });
    child.on('error', reject);
    child.on('exit', (code) => reject(new Error(`Expected a server, it ended with ${code}: ${text}`)));
  });
  return {
    url,
    stop: () => {
      child.kill('SIGTERM');
      return ended;
    },
  };
}
