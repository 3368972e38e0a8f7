// Whether the shipped model's logits have the same bits run after run (D1), alone and among others (D2), and with any number of threads (D3).
// Prints a table and writes docs/results/cpu/determinism.jsonl. D4, of a server, is `npm run soak`. Build first.
//   node apps/int-flash/bench/determinism.bench.mjs
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdirSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { loadModel } from '../../../packages/llm/dist/index.js';
import { measuredOn } from '../../../tools/measured-on.mjs';

const root = fileURLToPath(new URL('../../../', import.meta.url));
const model = `${root}models/int-flash-demo`;
const results = 'docs/results/cpu/determinism.jsonl';
/** 32 shapes: prompts of less than a page, around one, around a chunk, and several; with each way of keeping keys and values. */
const LENGTHS = [1, 7, 20, 63, 64, 65, 130, 300];
const WAYS = [
  { attention: 'int8', kvCacheDtype: 'int8' },
  { attention: 'int8', kvCacheDtype: 'int4' },
  { attention: 'fp32', kvCacheDtype: 'fp32' },
  { attention: 'fp32', kvCacheDtype: 'fp16' },
];
const SHAPES = WAYS.flatMap((way) => LENGTHS.map((length) => ({ ...way, length })));
const TOKENS = 4;

/** A digest of what an answer says and of every token's probability: equal ones mean equal logits. */
async function digest(loaded, { length, ...way }, seed = 0) {
  const ids = Array.from({ length }, (_, i) => 3 + ((i * 37 + length * 101 + seed * 977) % 4000));
  const hash = createHash('sha256');
  const options = { ...way, temperature: 0, maxTokens: TOKENS, ignoreEos: true, logprobs: 3 };
  for await (const token of loaded.generate(ids, options)) hash.update(JSON.stringify(token));
  return hash.digest('hex');
}

async function digests(options) {
  const loaded = await loadModel(model, options);
  const all = [];
  for (const shape of SHAPES) all.push(await digest(loaded, shape));
  await loaded.dispose();
  return all;
}

if (process.argv[2] === 'digests') {
  console.log(JSON.stringify(await digests({ threads: Number(process.argv[3]), prefixCache: false })));
  process.exit(0);
}

/** In a process of its own. */
function digestsElsewhere(threads) {
  const { stdout } = spawnSync(process.execPath, [fileURLToPath(import.meta.url), 'digests', String(threads)]);
  return JSON.parse(stdout.toString());
}

const differing = (some, others) => some.filter((value, i) => value !== others[i]).length;
const loaded = await loadModel(model, { prefixCache: false });
const { name, isa } = loaded.status().backend;
const origin = { ...measuredOn(), backend: `${name} (${isa})` };
const lines = [];

function record(promise, what, value, of) {
  lines.push({ determinism: promise, ...origin, what, value, of });
  console.log(`${promise}  ${what}: ${value} of ${of}`);
}

const once = digestsElsewhere(1);
record('D1', 'answers that differ in a second process', differing(digestsElsewhere(1), once), SHAPES.length);
for (const threads of [2, 4, 8])
  record(
    'D3',
    `answers that differ with ${threads} threads from those with 1`,
    differing(digestsElsewhere(threads), once),
    SHAPES.length,
  );

for (const batch of [7, 64]) {
  let different = 0;
  for (let first = 0; first < SHAPES.length; first += batch) {
    const asked = SHAPES.slice(first, first + batch);
    // Neighbours fill the batch; every second time the order is turned round.
    const neighbours = Array.from({ length: batch - asked.length }, (_, i) => SHAPES[(first + 5 * i) % SHAPES.length]);
    const jobs = [...asked.map((shape) => [shape, 0]), ...neighbours.map((shape) => [shape, 1])];
    if ((first / batch) % 2 === 1) jobs.reverse();
    const told = await Promise.all(jobs.map(([shape, seed]) => digest(loaded, shape, seed)));
    asked.forEach((shape, i) => {
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

mkdirSync(`${root}docs/results/cpu`, { recursive: true });
writeFileSync(`${root}${results}`, `${lines.map((line) => JSON.stringify(line)).join('\n')}\n`);
