// Whole models on this CPU, ours beside llama.cpp (node-llama-cpp, the prebuilt library that its users get): a prompt of 512 tokens read, then tokens
// written one by one. The same shapes, both with INT8 weights (theirs in Q8_0), int8 against float16 caches, flash attention on; runs take turns, and
// each figure is the median of them. llama.cpp gets each number of threads up to `--threads`, and its best counts. Prints a table and, without
// --quick, writes docs/results/cpu/llama-cpp.jsonl. Build first; node-llama-cpp is not among our dependencies, being half a gigabyte:
//   npm install --prefix FOLDER --ignore-scripts node-llama-cpp
//   node apps/int-flash/bench/llama-cpp.bench.mjs --llama-cpp FOLDER [--threads 2] [--models demo,llama-3.2-1b] [--quick]
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { countsOf, namesOf } from '../../../tools/listed-options.mjs';
import { measuredOn } from '../../../tools/measured-on.mjs';
import { median } from '../../../tools/median.mjs';
import { runNode } from '../../../tools/process.mjs';
import { writeRandomGguf } from './random-gguf.mjs';

const root = fileURLToPath(new URL('../../../', import.meta.url));
const PROMPT = 512;
const MODELS = {
  demo: {
    ours: [join(root, 'models/int-flash-demo')],
    written: 128,
    shape: { vocab: 4096, hidden: 384, layers: 8, heads: 6, kvHeads: 2, headDim: 64, intermediate: 1024 },
  },
  'llama-3.2-1b': {
    ours: ['--random', 'llama-3.2-1b'],
    written: 32,
    shape: { vocab: 128256, hidden: 2048, layers: 16, heads: 32, kvHeads: 8, headDim: 64, intermediate: 8192 },
  },
};

const { values: given } = parseArgs({
  options: {
    'llama-cpp': { type: 'string' },
    models: { type: 'string', default: Object.keys(MODELS).join(',') },
    threads: { type: 'string', default: '2' },
    quick: { type: 'boolean', default: false },
  },
  strict: false, // `npm run bench` hands every benchmark the same arguments
});
if (typeof given['llama-cpp'] !== 'string') {
  console.log('llama.cpp: skipped, no --llama-cpp FOLDER where node-llama-cpp is installed');
} else {
  await run(
    namesOf('models', given.models, Object.keys(MODELS)),
    countsOf('threads', given.threads)[0],
    given.quick ? 1 : 3,
  );
}

async function run(names, threads, rounds) {
  const folder = mkdtempSync(join(tmpdir(), 'int-flash-llama-cpp-'));
  const lines = [];
  try {
    for (const name of names) lines.push(await compare(name, join(folder, `${name}.gguf`), threads, rounds));
  } finally {
    rmSync(folder, { recursive: true });
  }
  if (given.quick) return;
  mkdirSync(join(root, 'docs/results/cpu'), { recursive: true });
  writeFileSync(
    join(root, 'docs/results/cpu/llama-cpp.jsonl'),
    lines.map((line) => `${JSON.stringify(line)}\n`).join(''),
  );
}

async function compare(model, file, threads, rounds) {
  const { ours, written, shape } = MODELS[model];
  writeRandomGguf(file, shape);
  const own = [];
  const theirs = Array.from({ length: threads }, () => []);
  for (let round = 0; round < rounds; round++) {
    own.push(await ourRates(ours, written, threads));
    for (const [i, runs] of theirs.entries()) runs.push(await theirRates(file, written, i + 1));
  }
  rmSync(file);
  const ourMedian = (what) => median(own.map((rates) => rates[what]));
  const theirBest = (what) => Math.max(...theirs.map((runs) => median(runs.map((rates) => rates[what]))));
  const line = {
    bench: 'llama-cpp',
    ...measuredOn(),
    threads,
    model,
    llamaCpp: theirs[0][0].release,
    prompt: PROMPT,
    written,
  };
  for (const what of ['prefill', 'decode']) {
    const [rate, peer] = [ourMedian(what), theirBest(what)];
    Object.assign(line, { [`${what}TokensPerSecond`]: rate, [`${what}Peer`]: peer, [`${what}TimesPeer`]: rate / peer });
    console.log(
      `${model} ${what}: ${rate.toFixed(1)} tokens/s, llama.cpp ${peer.toFixed(1)}: ${(rate / peer).toFixed(2)}x`,
    );
  }
  return line;
}

async function ourRates(model, written, threads) {
  const size = ['--context', `${PROMPT}`, '--new-tokens', `${written}`, '--repeats', '3'];
  const how = ['--backend', 'cpu', '--threads', `${threads}`, '--quiet', '--output', 'jsonl'];
  const row = await lastLine([join(root, 'apps/int-flash/dist/cli.js'), 'bench', ...model, ...size, ...how]);
  return { prefill: row.pp_ts, decode: row.tg_ts };
}

function theirRates(file, written, threads) {
  const peer = fileURLToPath(new URL('llama-cpp-peer.mjs', import.meta.url));
  return lastLine([peer, given['llama-cpp'], file, PROMPT, written, threads, 3].map(String));
}

/** What a script prints last, which is JSON. */
async function lastLine(args) {
  const { status, output } = await runNode(args);
  if (status !== 0) throw new Error(`${args[0]} failed\n${output}`);
  return JSON.parse(output.trim().split('\n').at(-1));
}
