// How fast the demo model reads a prompt and writes tokens in INT8, against the same runtime in float32 (attention, cache and linear layers), in turns
// in one process. Prints the ratios and, without --quick, writes docs/results/cpu/demo-speed.jsonl. Build first.
//   node apps/int-flash/bench/demo-speed.bench.mjs [--quick]
import { mkdirSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { loadModel } from '@int-flash/llm';
import { measuredOn } from '../../../tools/measured-on.mjs';
import { median } from '../../../tools/median.mjs';

const root = fileURLToPath(new URL('../../../', import.meta.url));
const quick = process.argv.includes('--quick');
const rounds = quick ? 2 : 15;
const prompt = 'The king and the bird walked along the river and talked about the weather. '.repeat(25);
const ARITHMETIC = {
  int8: { attention: 'int8', kvCacheDtype: 'int8', linear: 'int8' },
  fp32: { attention: 'fp32', kvCacheDtype: 'fp32', linear: 'fp32' },
};

const models = {};
for (const [name, options] of Object.entries(ARITHMETIC)) {
  // Without a prefix cache: every round reads the whole prompt.
  models[name] = await loadModel(`${root}models/int-flash-demo`, { ...options, prefixCache: false });
}
const times = { prefill: { int8: [], fp32: [] }, decode: { int8: [], fp32: [] } };
const promptTokens = models.int8.tokenizer.encode(prompt).length;
for (let round = 0; round <= rounds; round++) {
  for (const [name, model] of Object.entries(models)) {
    await timed(model, prompt, 1); // the processor's caches are full of the other model, which nobody has who uses one
    const prefill = await timed(model, prompt, 1);
    const decode = await timed(model, 'Once upon a time', quick ? 8 : 96);
    if (round === 0) continue; // warms the code up
    times.prefill[name].push(prefill.first);
    times.decode[name].push((decode.all - decode.first) / (decode.tokens - 1));
  }
}
const origin = measuredOn();
const lines = Object.entries(times).map(([what, { int8, fp32 }]) => {
  const tokens = what === 'prefill' ? promptTokens : 1;
  const perSecond = (values) => (1000 * tokens) / median(values);
  return {
    bench: 'demo-speed',
    ...origin,
    backend: models.int8.status().backend.isa,
    what,
    int8TokensPerSecond: perSecond(int8),
    fp32TokensPerSecond: perSecond(fp32),
    timesFp32: median(int8.map((ms, round) => fp32[round] / ms)),
    timesFp32AtBest: Math.min(...fp32) / Math.min(...int8),
  };
});
for (const { what, int8TokensPerSecond, fp32TokensPerSecond, timesFp32, timesFp32AtBest } of lines) {
  console.log(
    `demo ${what.padEnd(8)} int8 ${int8TokensPerSecond.toFixed(0)} tokens/s, fp32 ${fp32TokensPerSecond.toFixed(0)}: ${timesFp32.toFixed(2)}x, at best ${timesFp32AtBest.toFixed(2)}x`,
  );
}
for (const model of Object.values(models)) await model.dispose();
if (!quick) {
  mkdirSync(`${root}docs/results/cpu`, { recursive: true });
  writeFileSync(`${root}docs/results/cpu/demo-speed.jsonl`, lines.map((line) => `${JSON.stringify(line)}\n`).join(''));
}

async function timed(model, text, maxTokens) {
  const start = performance.now();
  let first = 0;
  let tokens = 0;
  for await (const _ of model.generate(text, { temperature: 0, maxTokens, ignoreEos: true })) {
    if (tokens === 0) first = performance.now() - start;
    tokens++;
  }
  return { first, tokens, all: performance.now() - start };
}
