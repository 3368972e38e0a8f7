#!/usr/bin/env node
// Attention on this CPU, every answer checked before it is timed:
//   node packages/kernels-cpu/bench/attention.bench.mjs [--quick] [--threads N] [--backend cpu|portable]
// Prefill: float32 in, float32 out, quantization included. Decode: one token of all heads against a KV cache. Prints a table and writes
// docs/results/cpu/attention.jsonl, one JSON object a line; `peer` is this backend's own float32 path, timed in turn with the variant.
import { execFileSync } from 'node:child_process';
import { mkdirSync, writeFileSync } from 'node:fs';
import { cpus } from 'node:os';
import { createCpuBackend, createPortableBackend } from '@int-flash/kernels-cpu';
import { judgeAttention } from '@int-flash/ops';
import { quantizePerTokenInt4, quantizePerTokenInt8 } from '@int-flash/quant';
import { makeInputs, relativeL2, softmaxAttention } from '@int-flash/reference';

const option = (name, fallback) => {
  const at = process.argv.indexOf(`--${name}`);
  return at < 0 ? fallback : process.argv[at + 1];
};
const quick = process.argv.includes('--quick');
const threads = Number(option('threads', '2'));
const backend = openBackend(option('backend', 'auto'));
const status = backend.status();
const common = {
  commit: commit(),
  cpu: cpus()[0]?.model.trim() ?? 'unknown',
  threads: status.threads ?? 1,
  backend: status.isa ? `${backend.name} ${status.isa}` : backend.name,
};
const HEADS = 8;
/** Highest relative L2 on N(0, 1) inputs: the published bounds of docs/arithmetic.md, with room for head dimension 64; fp32: its exponential. */
const CEILINGS = { 'full-int8': 0.017, 'half-int8': 0.0108, 'paper-int8': 0.045, fp32: 5e-6 };
const lines = [];

/** Median of the times of `run` and `peer`, called in turn so that a busy machine slows both. */
function timeInTurn(run, peer, rounds) {
  const [own, other] = [[], []];
  for (let round = 0; round <= rounds; round++) {
    for (const [call, times] of [
      [run, own],
      [peer, other],
    ]) {
      const start = process.hrtime.bigint();
      call();
      if (round > 0) times.push(Number(process.hrtime.bigint() - start) / 1e6); // the first warms up
    }
  }
  return [median(own), median(other)];
}

function prefill(N, D, causal) {
  const inputs = makeInputs('normal', { heads: HEADS, queries: N, keys: N, headDim: D }, N + D);
  const options = { isCausal: causal };
  const fp32 = judgeAttention(inputs, { ...options, precision: 'fp32' });
  for (const variant of ['full-int8', 'half-int8', 'paper-int8']) {
    const plan = judgeAttention(inputs, { ...options, precision: variant });
    const error = check(inputs, plan, variant, N, D, causal);
    const gops = (4 * HEADS * N * N * D) / (causal ? 2 : 1) / 1e6;
    const [ms, peerMs] = timeInTurn(
      () => backend.attentionSync(plan),
      () => backend.attentionSync(fp32),
      quick ? 2 : 5,
    );
    report({
      bench: 'attention-prefill',
      variant,
      H: HEADS,
      Hkv: HEADS,
      Nq: N,
      Nk: N,
      D,
      causal,
      ms,
      gops: gops / ms,
      error,
      peerMs,
    });
  }
}

/** Compares the last rows, which see every key in either mask, with float64. */
function check(inputs, plan, variant, N, D, causal) {
  const rows = 4;
  const tail = new Float32Array(HEADS * rows * D);
  const actual = new Float32Array(tail.length);
  const { out } = backend.attentionSync(plan);
  for (let head = 0; head < HEADS; head++) {
    const [from, to] = [(head * N + N - rows) * D, (head + 1) * N * D];
    tail.set(inputs.query.data.subarray(from, to), head * rows * D);
    actual.set(out.subarray(from, to), head * rows * D);
  }
  const query = { ...inputs.query, dims: [1, HEADS, rows, D], data: tail };
  const expected = softmaxAttention(
    judgeAttention({ ...inputs, query }, { isCausal: causal, causalAlignment: 'bottom-right' }),
  ).out;
  return within(relativeL2(actual, expected), CEILINGS[variant], `${variant} N ${N} D ${D}`);
}

function decode(N, D) {
  const inputs = makeInputs('normal', { heads: HEADS, queries: 1, keys: N, headDim: D }, N + D);
  const expected = softmaxAttention(judgeAttention(inputs)).out;
  const args = {
    query: inputs.query.data,
    tokens: 1,
    heads: HEADS,
    scale: Math.fround(D ** -0.5),
    windowLeft: Infinity,
    softcap: 0,
  };
  const shape = { kvHeads: HEADS, capacity: N, headDim: D, length: N };
  const float = { ...shape, type: 'fp32', keys: inputs.key.data, values: inputs.value.data };
  const [k8, v8] = [inputs.key, inputs.value].map((t) => quantizePerTokenInt8(t.data, D));
  const [k4, v4] = [inputs.key, inputs.value].map((t) => quantizePerTokenInt4(t.data, D));
  const caches = {
    int8: { ...shape, type: 'int8', keys: k8.values, keyScales: k8.scales, values: v8.values, valueScales: v8.scales },
    int4: { ...shape, type: 'int4', keys: k4.packed, keyScales: k4.scales, values: v4.packed, valueScales: v4.scales },
  };
  for (const [variant, cache] of Object.entries(caches)) {
    const ceiling = variant === 'int8' ? 0.025 : 0.4; // 4 bits on noise-like keys and values
    const error = within(
      relativeL2(backend.cacheAttentionSync({ ...args, cache }), expected),
      ceiling,
      `decode ${variant} N ${N} D ${D}`,
    );
    const out = new Float32Array(HEADS * D);
    const [ms, peerMs] = timeInTurn(
      () => backend.cacheAttentionSync({ ...args, cache }, out),
      () => backend.cacheAttentionSync({ ...args, cache: float }, out),
      quick ? 20 : 100,
    );
    report({
      bench: 'attention-decode',
      variant: `kv-${variant}`,
      H: HEADS,
      Hkv: HEADS,
      Nq: 1,
      Nk: N,
      D,
      causal: true,
      ms,
      gops: (4 * HEADS * N * D) / 1e6 / ms,
      error,
      peerMs,
    });
  }
}

function report({ bench, variant, ms, gops, error, peerMs, ...shape }) {
  const line = {
    bench,
    ...common,
    variant,
    B: 1,
    ...shape,
    ms: round(ms),
    gops: round(gops),
    relL2: round(error),
    peer: { 'int-flash fp32': round(peerMs) },
  };
  lines.push(JSON.stringify(line));
  const name = `${bench.slice('attention-'.length)} ${variant}${shape.causal && shape.Nq > 1 ? ' causal' : ''}`;
  console.log(
    `${name.padEnd(26)} N ${String(shape.Nk).padEnd(6)} D ${String(shape.D).padEnd(4)} ${ms.toFixed(3).padStart(9)} ms ${gops.toFixed(0).padStart(5)} GOPS  ${(peerMs / ms).toFixed(2).padStart(5)} × fp32  error ${error.toFixed(4)}`,
  );
}

function within(error, ceiling, what) {
  if (!(error < ceiling))
    throw new Error(`Expected a relative L2 error below ${ceiling} of ${what}, got ${error}: not timed`);
  return error;
}

function openBackend(choice) {
  if (choice === 'portable') return createPortableBackend();
  try {
    return createCpuBackend({ threads });
  } catch (error) {
    if (choice === 'cpu') throw error;
    console.error(`${error.message}: measuring the portable backend`);
    return createPortableBackend();
  }
}

function commit() {
  try {
    return execFileSync('git', ['rev-parse', '--short', 'HEAD'], {
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'ignore'],
    }).trim();
  } catch {
    return 'unknown';
  }
}

function median(times) {
  return times.sort((a, b) => a - b)[times.length >> 1];
}

function round(number) {
  return Number(number.toPrecision(4));
}

console.log(`${common.cpu}, ${common.backend}, ${common.threads} threads, B 1 H ${HEADS}, medians`);
for (const D of [64, 128])
  for (const N of quick ? [512] : [512, 1024, 2048]) for (const causal of [false, true]) prefill(N, D, causal);
for (const D of [64, 128]) for (const N of quick ? [1024] : [1024, 4096, 16384]) decode(N, D);
mkdirSync('docs/results/cpu', { recursive: true });
writeFileSync('docs/results/cpu/attention.jsonl', `${lines.join('\n')}\n`);
console.log('written to docs/results/cpu/attention.jsonl');
