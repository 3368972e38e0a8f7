#!/usr/bin/env node
// How long attention, decoding and linear layers take, ours and (with --peers) onnxruntime-node's, round by round in one process:
//   npm run bench [-- --peers] [-- --quick]
// Every answer is checked against float64 softmax before it is timed. Medians; ratios within a round, since a shared machine's
// clock drifts. Appends to docs/results/cpu/attention.jsonl.
import { spawnSync } from 'node:child_process';
import { appendFileSync, mkdirSync } from 'node:fs';
import { cpus } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import { createCpuBackend, createPortableBackend, supportedIsas } from '@int-flash/kernels-cpu';
import { judgeAttention } from '@int-flash/ops';
import { relativeL2, softmaxAttention } from '@int-flash/reference';
import { loadPeers } from './onnxruntime-peers.mjs';
import { randomCodes, randomFloats } from './raw-calls.mjs';

const root = new URL('../../../', import.meta.url);
const quick = process.argv.includes('--quick');
const threads = Number(process.env.INT_FLASH_THREADS ?? 2);
const isas = supportedIsas();
const backend = isas.length > 0 ? createCpuBackend({ threads }) : createPortableBackend();
const peers = process.argv.includes('--peers') ? await loadPeers(threads) : [];
const conditions = {
  commit:
    spawnSync('git', ['rev-parse', '--short', 'HEAD'], { cwd: root, encoding: 'utf8' }).stdout?.trim() || 'unknown',
  cpu: cpus()[0]?.model ?? 'unknown',
  threads,
  backend: `${backend.name}:${backend.status().isa}`,
};
// Largest relative L2 accepted: what ACCURACY targets with room for short sequences; fp32 is float32 arithmetic.
const TOLERANCE = { 'full-int8': 0.02, 'half-int8': 0.013, 'paper-int8': 0.06, fp32: 1e-5 };
const VARIANTS = Object.keys(TOLERANCE);
const results = [];

async function milliseconds(run) {
  const start = process.hrtime.bigint();
  await run();
  return Number(process.hrtime.bigint() - start) / 1e6;
}

const median = (values) => [...values].sort((a, b) => a - b)[values.length >> 1];

/** Times every candidate once a round, so that a slow moment hits all of them. */
async function race(candidates, rounds, repeats = 1) {
  const times = new Map(Object.keys(candidates).map((name) => [name, []]));
  for (const run of Object.values(candidates)) await run();
  for (let round = 0; round < rounds; round++) {
    for (const [name, run] of Object.entries(candidates)) {
      if (peers.length > 0) await sleep(15); // a peer's threads spin on for a while, on the cores the next one needs
      const total = await milliseconds(async () => {
        for (let i = 0; i < repeats; i++) await run();
      });
      times.get(name).push(total / repeats);
    }
  }
  return Object.fromEntries([...times].map(([name, values]) => [name, median(values)]));
}

function record(bench, shape, gigaOperations, ours, peer) {
  for (const [variant, ms] of Object.entries(ours)) {
    results.push({ bench, ...conditions, variant, ...shape, ms, gops: gigaOperations / (ms / 1e3), peer });
  }
}

async function prefill(N, D, causal) {
  const [B, H] = [1, 8];
  const data = [1, 2, 3].map((seed) => randomFloats(H * N * D, seed));
  const tensors = data.map((values) => ({ type: 'float32', dims: [B, H, N, D], data: values }));
  const [query, key, value] = tensors;
  const plan = (precision) => judgeAttention({ query, key, value }, { precision, isCausal: causal });
  // The oracle is slow: a short sequence of the same head dimension shows that this build computes attention.
  const tokens = Math.min(192, H * N);
  const short = (t) => ({ ...t, dims: [1, 1, tokens, D], data: t.data.slice(0, tokens * D) });
  for (const precision of VARIANTS) {
    const small = judgeAttention(
      { query: short(query), key: short(key), value: short(value) },
      { precision, isCausal: causal },
    );
    const error = relativeL2(backend.attentionSync(small).out, softmaxAttention(small).out);
    if (!(error <= TOLERANCE[precision])) throw new Error(`${precision} at headDim ${D} is ${error} off`);
  }
  const candidates = Object.fromEntries(
    VARIANTS.map((precision) => [precision, () => backend.attentionSync(plan(precision))]),
  );
  const reference = backend.attentionSync(plan('fp32')).out;
  for (const peer of peers) {
    const run = await peer.attention({ B, H, N, D, causal, data });
    if (!run) continue;
    const error = relativeL2(await run.check(), reference);
    if (!(error <= 1e-3)) throw new Error(`${peer.name} differs from fp32 by ${error}`);
    candidates[peer.name] = run.time;
  }
  const times = await race(candidates, N >= 2048 ? 3 : 7);
  split(
    'prefill',
    { B, H, Hkv: H, Nq: N, Nk: N, D, causal },
    (4 * H * D * N * (causal ? (N + 1) / 2 : N)) / 1e9,
    times,
  );
}

async function decode(N, D) {
  const H = 8;
  const count = H * N * D;
  const query = randomFloats(H * D, 5);
  const shape = { kvHeads: H, capacity: N, headDim: D, length: N };
  const scales = (seed) => randomFloats(H * N, seed).map((x) => 0.002 + Math.abs(x) * 0.01);
  const scaled = { keyScales: scales(3), valueScales: scales(4) };
  const codes = { keys: randomCodes(count, 1), values: randomCodes(count, 2) };
  const caches = {
    int8: { ...shape, type: 'int8', ...codes, ...scaled },
    int4: {
      ...shape,
      type: 'int4',
      keys: new Uint8Array(codes.keys.buffer.slice(0, count / 2)),
      values: new Uint8Array(codes.values.buffer.slice(0, count / 2)),
      ...scaled,
    },
    fp32: { ...shape, type: 'fp32', keys: randomFloats(count, 1), values: randomFloats(count, 2) },
  };
  const out = new Float32Array(H * D);
  const candidates = Object.fromEntries(
    Object.entries(caches).map(([name, cache]) => [
      `cache-${name}`,
      () =>
        backend.cacheAttentionSync(
          { query, tokens: 1, heads: H, cache, scale: 1 / 8, windowLeft: Infinity, softcap: 0 },
          out,
        ),
    ]),
  );
  const times = await race(candidates, 9, N <= 4096 ? 20 : 5);
  split('decode', { B: 1, H, Hkv: H, Nq: 1, Nk: N, D, causal: true }, (4 * H * D * N) / 1e9, times);
}

async function linear(rows, cols, tokens) {
  const input = randomFloats(tokens * cols, 1);
  const out = new Float32Array(tokens * rows);
  const layers = {
    'linear-int8': backend.createLinear({
      type: 'int8',
      rows,
      cols,
      codes: randomCodes(rows * cols, 2),
      scales: new Float32Array(rows).fill(0.01),
    }),
    'linear-fp32': backend.createLinear({ type: 'fp32', rows, cols, weights: randomFloats(rows * cols, 2) }),
  };
  const candidates = Object.fromEntries(
    Object.entries(layers).map(([name, layer]) => [name, () => layer.forwardSync(input, tokens, out)]),
  );
  const times = await race(candidates, 7, tokens === 1 ? 20 : 3);
  for (const layer of Object.values(layers)) layer.dispose();
  split(
    'linear',
    { B: 1, H: 1, Hkv: 1, Nq: tokens, Nk: rows, D: cols, causal: false },
    (2 * rows * cols * tokens) / 1e9,
    times,
  );
}

function split(bench, shape, gigaOperations, times) {
  const names = new Set(peers.map((peer) => peer.name));
  const entries = Object.entries(times);
  const peer = Object.fromEntries(entries.filter(([name]) => names.has(name)));
  const ours = Object.fromEntries(entries.filter(([name]) => !names.has(name)));
  record(bench, shape, gigaOperations, ours, peer);
  const base = entries.find(([name]) => name.endsWith('fp32'))[1];
  const best = Math.min(...Object.values(peer));
  for (const [name, ms] of entries) {
    const against = Number.isFinite(best) ? `${(best / ms).toFixed(2)}x best peer` : '';
    console.log(
      [
        bench.padEnd(8),
        `Nq ${shape.Nq}`.padEnd(8),
        `Nk ${shape.Nk}`.padEnd(9),
        `D ${shape.D}`.padEnd(7),
        (shape.causal ? 'causal' : '').padEnd(7),
        name.padEnd(24),
        `${ms.toFixed(3)} ms`.padStart(12),
        `${(gigaOperations / (ms / 1e3)).toFixed(1)} GOPS`.padStart(12),
        `${(base / ms).toFixed(2)}x fp32`.padStart(12),
        against.padStart(18),
      ].join(' '),
    );
  }
}

console.log(`${conditions.cpu}, ${conditions.backend}, ${threads} threads, commit ${conditions.commit}`);
const small = quick || backend.name === 'portable';
for (const N of small ? [128] : [16, 128, 512, 1024, 2048])
  for (const D of [64, 128]) for (const causal of [false, true]) await prefill(N, D, causal);
for (const N of small ? [256] : [1024, 4096, 16384]) for (const D of [64, 128]) await decode(N, D);
for (const tokens of small ? [1] : [1, 128])
  for (const [rows, cols] of [
    [576, 576],
    [1536, 576],
  ])
    await linear(rows, cols, tokens);
const folder = new URL('docs/results/cpu/', root);
mkdirSync(folder, { recursive: true });
appendFileSync(new URL('attention.jsonl', folder), results.map((line) => `${JSON.stringify(line)}\n`).join(''));
console.log(`${results.length} lines appended to docs/results/cpu/attention.jsonl`);
