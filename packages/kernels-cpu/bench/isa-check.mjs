#!/usr/bin/env node
// Every instruction set of this machine against portable-cpp, bit for bit, then how fast each is:
//   node packages/kernels-cpu/bench/isa-check.mjs [--quick]
// Plain Node and the built addon are all it needs. Prints a table and, last, a line of JSON; exits 1 on any difference.
import { cpus } from 'node:os';
import {
  attentionCall,
  cacheCall,
  firstDifference,
  loadAddon,
  PRECISIONS,
  runAttention,
  runCache,
  runLinear,
} from './raw-calls.mjs';

const addon = loadAddon();
const isas = addon.supportedIsas();
const portable = isas.length - 1;
const quick = process.argv.includes('--quick');

const dims = [8, 16, 24, 32, 40, 64, 72, 80, 96, 104, 128, 160, 192, 200, 256];
const pairs = [
  [1, 1],
  [1, 130],
  [5, 128],
  [17, 300],
  [64, 64],
  [67, 257],
  [130, 129],
];
const masks = [
  {},
  { windowRight: 0 },
  { windowRight: 0, bottomRight: true },
  { windowLeft: 40, windowRight: 9, bottomRight: true },
  { mask: 'bool' },
  { mask: 'float', softcap: 8 },
];
const heads = [
  [2, 2],
  [4, 2],
  [3, 1],
];

const failures = [];
let cases = 0;
function compare(isa, name, run) {
  cases++;
  const expected = run(portable);
  const actual = run(isa);
  for (const field of Object.keys(expected)) {
    const same =
      typeof expected[field] === 'string'
        ? actual[field] === expected[field]
        : firstDifference(actual[field], expected[field]) < 0;
    if (!same) {
      const at = typeof expected[field] === 'string' ? -1 : firstDifference(actual[field], expected[field]);
      failures.push({
        isa: isas[isa],
        name,
        field,
        at,
        expected: at < 0 ? expected[field] : expected[field][at],
        actual: at < 0 ? actual[field] : actual[field][at],
      });
      break;
    }
  }
}

for (let isa = 0; isa < portable; isa++) {
  let n = 0;
  for (const precision of PRECISIONS) {
    for (const D of dims) {
      for (const mask of masks) {
        const [Nq, Nk] = pairs[n % pairs.length];
        const [H, Hkv] = heads[n % heads.length];
        const Dv = n % 5 === 0 ? dims[(n * 7) % dims.length] : D;
        const shape = { precision, B: 1 + (n % 2), H, Hkv, Nq, Nk, D, Dv, ...mask };
        n++;
        compare(isa, `attention ${JSON.stringify(shape)}`, (i) =>
          runAttention(addon, shape, { isa: i, checksums: 1, seed: n }),
        );
      }
    }
  }
  for (const D of dims) {
    for (const precision of ['full-int8', 'paper-int8']) {
      n++;
      const [Nq, Nk] = pairs[n % pairs.length];
      const shape = {
        precision,
        coded: true,
        channelScale: n % 2 === 0,
        B: 2,
        H: 4,
        Hkv: 2,
        Nq,
        Nk,
        D,
        ...masks[n % 4],
      };
      if (precision === 'full-int8')
        compare(isa, `quantized ${JSON.stringify(shape)}`, (i) =>
          runAttention(addon, shape, { isa: i, checksums: 1, seed: n }),
        );
    }
    for (const type of ['int8', 'int4', 'fp32']) {
      for (const [tokens, length] of [
        [1, 1],
        [1, 131],
        [2, 1024],
        [8, 1300],
        [1, 2500],
        [40, 170],
      ]) {
        n++;
        const shape = {
          type,
          tokens,
          H: 6,
          Hkv: n % 2 ? 2 : 6,
          length,
          capacity: length + (n % 3) * 5,
          D,
          windowLeft: n % 4 === 0 ? 77 : Infinity,
          softcap: n % 7 === 0 ? 5 : 0,
        };
        compare(isa, `cache ${JSON.stringify(shape)}`, (i) => ({ out: runCache(addon, shape, { isa: i, seed: n }) }));
      }
    }
  }
  for (const type of ['int8', 'fp32']) {
    for (const [rows, cols, tokens] of [
      [1, 1, 1],
      [7, 5, 3],
      [16, 64, 4],
      [65, 100, 9],
      [130, 576, 1],
      [200, 333, 21],
    ]) {
      const shape = { type, rows, cols, tokens, bias: tokens % 2 === 1 };
      compare(isa, `linear ${JSON.stringify(shape)}`, (i) => ({
        out: runLinear(addon, shape, { isa: i, threads: 2 }),
      }));
    }
  }
  for (const group of [32, 64, 128]) {
    for (const [rows, tokens] of [
      [1, 1],
      [70, 3],
      [130, 9],
    ]) {
      const shape = { type: 'int4', rows, cols: 3 * group, group, tokens, bias: tokens % 2 === 1 };
      compare(isa, `linear ${JSON.stringify(shape)}`, (i) => ({
        out: runLinear(addon, shape, { isa: i, threads: 2 }),
      }));
    }
  }
}

function median(run, rounds) {
  run();
  const times = Array.from({ length: rounds }, () => {
    const start = process.hrtime.bigint();
    run();
    return Number(process.hrtime.bigint() - start) / 1e6;
  });
  return times.sort((a, b) => a - b)[rounds >> 1];
}

const speeds = [];
const threads = Number(process.env.INT_FLASH_THREADS ?? 2);
for (let isa = 0; isa < isas.length && !quick; isa++) {
  const slow = isa === portable;
  for (const precision of ['full-int8', 'fp32']) {
    for (const D of [64, 128]) {
      const N = slow ? 256 : 2048;
      for (const causal of slow ? [false] : [false, true]) {
        const shape = { precision, B: 1, H: 8, Hkv: 8, Nq: N, Nk: N, D, windowRight: causal ? 0 : Infinity };
        const { args, outLength } = attentionCall(shape, { isa, threads });
        const out = new Float32Array(outLength);
        const ms = median(() => addon.attention(...args, out, undefined), 5);
        speeds.push({
          isa: isas[isa],
          what: 'prefill',
          precision,
          N,
          D,
          causal,
          threads,
          ms,
          gops: (4 * 8 * N * (causal ? (N + 1) / 2 : N) * D) / ms / 1e6,
        });
      }
    }
  }
  for (const type of ['int8', 'int4', 'fp32']) {
    for (const length of [1024, 16384]) {
      const args = cacheCall({ type, tokens: 1, H: 8, Hkv: 8, length, D: 64 }, { isa, threads });
      const ms = median(() => addon.cacheAttention(...args), 41);
      const bytes = 2 * 8 * length * 64 * { int8: 1, int4: 0.5, fp32: 4 }[type];
      speeds.push({
        isa: isas[isa],
        what: 'decode',
        precision: type,
        N: length,
        D: 64,
        threads,
        ms,
        gbps: bytes / ms / 1e6,
      });
    }
  }
}

console.log(`${cpus()[0]?.model}; ${isas.join(', ')}; ${threads} threads`);
for (const s of speeds) {
  console.log(
    [
      s.isa.padEnd(13),
      s.what.padEnd(8),
      s.precision.padEnd(10),
      `N ${s.N}`.padEnd(8),
      `D ${s.D}`.padEnd(6),
      (s.causal ? 'causal' : '').padEnd(7),
      `${s.ms.toFixed(3)} ms`.padStart(12),
      s.gops ? `${s.gops.toFixed(0)} GOPS` : `${s.gbps.toFixed(1)} GB/s`,
    ].join(' '),
  );
}
for (const failure of failures.slice(0, 20)) console.log('DIFFERS', JSON.stringify(failure));
console.log(
  JSON.stringify({ bench: 'isa-check', cpu: cpus()[0]?.model, isas, cases, failures: failures.length, speeds }),
);
process.exitCode = failures.length > 0 ? 1 : 0;
