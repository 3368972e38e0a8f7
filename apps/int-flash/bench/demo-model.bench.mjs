// How well and how fast the demo model runs with each arithmetic of attention, through the command as a user calls it.
// Prints a table and writes docs/results/cpu/demo-model.jsonl, one measurement a line. Build first.
//   node apps/int-flash/bench/demo-model.bench.mjs [--backend cpu|portable]
import { spawnSync } from 'node:child_process';
import { mkdirSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { measuredOn } from '../../../tools/measured-on.mjs';

const root = fileURLToPath(new URL('../../../', import.meta.url));
const model = 'models/int-flash-demo';
const results = 'docs/results/cpu/demo-model.jsonl';
const { values: options } = parseArgs({
  options: { backend: { type: 'string', default: 'auto' } },
  strict: false, // `npm run bench` hands every benchmark the same arguments
});

const VARIANTS = [
  { attention: 'fp32', kvCacheDtype: 'fp32' },
  { attention: 'int8', kvCacheDtype: 'int8' },
  { attention: 'int8', kvCacheDtype: 'int4' },
];
/** INT8 attention with an INT8 cache may cost this much perplexity; the INT4 cache is measured without a promise. */
const PROMISED = 1.01;

const { commit, cpu } = measuredOn();
const lines = [];
let broken = false;

for (const text of ['eval_sgd.txt', 'eval_oz.txt']) {
  let fp32;
  for (const { attention, kvCacheDtype } of VARIANTS) {
    const result = command('perplexity', model, `${model}/${text}`, ...flags(attention, kvCacheDtype));
    fp32 ??= result.perplexity;
    const ratio = result.perplexity / fp32;
    record('perplexity', result.backend, result.threads, {
      attention,
      kvCacheDtype,
      text,
      tokens: result.tokens,
      perplexity: result.perplexity,
      seconds: result.seconds,
    });
    const change = `${((ratio - 1) * 100).toFixed(3)}%`;
    console.log(
      `${text.padEnd(14)}${attention.padEnd(6)}${kvCacheDtype.padEnd(6)}${result.perplexity.toFixed(4).padStart(9)}${change.padStart(10)}${result.seconds.toFixed(1).padStart(8)} s`,
    );
    if (kvCacheDtype !== 'int4' && ratio > PROMISED) broken = true;
  }
}
for (const backend of options.backend === 'auto' ? ['auto', 'portable'] : [options.backend]) {
  for (const { attention, kvCacheDtype } of VARIANTS) {
    const result = command('demo', '--backend', backend, '--attention', attention, '--kv-cache-dtype', kvCacheDtype);
    const { generatedTokens: tokens, tokensPerSecond, timeToFirstTokenMs } = result;
    const seconds = tokens / tokensPerSecond;
    record('generate', result.backend.name, result.backend.threads, {
      attention,
      kvCacheDtype,
      tokens,
      seconds: Math.round(seconds * 1000) / 1000,
      tokensPerSecond,
      timeToFirstTokenMs,
    });
    console.log(
      `${result.backend.name.padEnd(14)}${attention.padEnd(6)}${kvCacheDtype.padEnd(6)}${tokensPerSecond.toFixed(1).padStart(9)} tokens/s`,
    );
  }
}

mkdirSync(`${root}docs/results/cpu`, { recursive: true });
writeFileSync(root + results, `${lines.map((line) => JSON.stringify(line)).join('\n')}\n`);
console.log(`wrote ${results}`);
if (broken) {
  console.error(`INT8 attention costs more than ${PROMISED} times the perplexity of fp32 attention`);
  process.exitCode = 1;
}

function flags(attention, kvCacheDtype) {
  return ['--backend', options.backend, '--attention', attention, '--kv-cache-dtype', kvCacheDtype];
}

function command(...args) {
  const run = spawnSync(process.execPath, ['apps/int-flash/dist/cli.js', ...args, '--json'], {
    cwd: root,
    encoding: 'utf8',
    maxBuffer: 2 ** 26,
  });
  if (run.status !== 0) throw new Error(`int-flash ${args.join(' ')} exited ${run.status}: ${run.stderr}`);
  return JSON.parse(run.stdout);
}

function record(bench, backend, threads, measured) {
  lines.push({ bench, commit, cpu, threads, backend, ...measured });
}
