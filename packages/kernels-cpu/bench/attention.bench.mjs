#!/usr/bin/env node
// How long attention, decoding and linear layers take, ours and (with --peers) onnxruntime-node's, round by round in one process:
//   npm run bench [-- --peers] [-- --quick] [-- --only prefill,decode,threads,linear] [-- --lengths 2048,4096] [-- --out lines.jsonl]
// Every answer is checked before it is timed. Medians, and the quickest of the rounds (*AtBest), which a busy machine spoils less. Without --quick the measurements replace the same
// sections' in docs/results/cpu/attention.jsonl, or in `--out`, and with --peers the plot beside the former is drawn anew.
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { createCpuBackend, createPortableBackend, supportedIsas } from '@int-flash/kernels-cpu';
import { measuredOn } from '../../../tools/measured-on.mjs';
import { decodeSpeed } from './decode-speed.mjs';
import { linearSpeed } from './linear-speed.mjs';
import { loadPeers } from './onnxruntime-peers.mjs';
import { prefillSpeed, threadSpeed } from './prefill-speed.mjs';
import { quiet } from './race.mjs';
import { loadAddon } from './raw-calls.mjs';
import { drawSpeedPlot } from './speed-plot.mjs';

const { values: options } = parseArgs({
  options: {
    peers: { type: 'boolean' },
    quick: { type: 'boolean' },
    only: { type: 'string' },
    lengths: { type: 'string' },
    out: { type: 'string' },
  },
  strict: false, // `npm run bench` hands every benchmark the same arguments
});
const SECTIONS = ['prefill', 'decode', 'threads', 'linear'];
const sections = options.only?.split(',') ?? SECTIONS;
const odd = sections.find((name) => !SECTIONS.includes(name));
if (odd !== undefined) throw new Error(`Expected sections of ${SECTIONS.join(', ')}, got ${odd}`);

const root = new URL('../../../', import.meta.url);
const folder = new URL('docs/results/cpu/', root);
const threads = Number(process.env.INT_FLASH_THREADS ?? 2);
const isas = supportedIsas();
const isNative = isas.length > 0;
const backend = isNative ? createCpuBackend({ threads }) : createPortableBackend();
const place = Float64Array.of(0, threads);
const addon = isNative ? loadAddon() : undefined;
const machine = {
  backend,
  peers: options.peers ? await loadPeers(threads) : [],
  peak: () => addon?.measurePeak(place) ?? 0,
  read: addon && ((arrays) => addon.readArrays(place, ...arrays)),
  settled: quiet,
};
const conditions = {
  ...measuredOn(),
  threads,
  backend: `${backend.name}:${backend.status().isa}`,
};
const small = options.quick || !isNative;
const results = [];

function report(lines) {
  for (const line of lines) {
    results.push({ ...conditions, ...line });
    const { bench, variant, ms, gops, shareOfPeak, timesBestPeer, timesFp32, timesOneThread } = line;
    const shareOfRead = line.shareOfReadAtBest;
    const shape = ['N', 'D', 'rows', 'cols', 'tokens', 'threads']
      .filter((name) => line[name] !== undefined)
      .map((name) => `${name} ${line[name]}`)
      .join(' ');
    const cells = [
      bench.padEnd(12),
      `${shape}${line.causal ? ' causal' : ''}`.padEnd(30),
      variant.padEnd(24),
      `${ms.toFixed(4)} ms`.padStart(13),
      gops !== undefined && `${gops.toFixed(0)} GOPS`.padStart(10),
      shareOfPeak > 0 && `${(100 * shareOfPeak).toFixed(0)}% of peak`.padStart(12),
      shareOfRead !== undefined && `${shareOfRead.toFixed(2)} of a read`.padStart(15),
      timesFp32 !== undefined && `${timesFp32.toFixed(2)}x fp32`.padStart(12),
      timesBestPeer !== undefined &&
        `${timesBestPeer.toFixed(2)}x ${line.bestPeer}, at best ${line.timesBestPeerAtBest.toFixed(2)}x`,
      timesOneThread !== undefined && `${timesOneThread.toFixed(2)}x one thread`,
    ];
    console.log(cells.filter(Boolean).join(' '));
  }
}

console.log(`${conditions.cpu}, ${conditions.backend}, ${threads} threads, commit ${conditions.commit}`);
if (sections.includes('prefill')) {
  const lengths = options.lengths?.split(',').map(Number) ?? [16, 32, 64, 128, 256, 512, 1024, 2048, 4096];
  for (const N of small ? [128] : lengths)
    for (const D of [64, 128])
      for (const causal of [false, true]) report(await prefillSpeed(machine, { N, D, causal }));
}
if (sections.includes('decode')) {
  for (const D of [64, 128]) report(await decodeSpeed(machine, { N: small ? 256 : 1024, D, cold: false }));
  for (const N of small ? [] : [4096, 16384])
    for (const D of [64, 128]) report(await decodeSpeed(machine, { N, D, cold: true }));
}
if (sections.includes('threads') && isNative) {
  const backends = Object.fromEntries([1, 2].map((count) => [count, createCpuBackend({ threads: count })]));
  for (const D of [64, 128]) report(await threadSpeed(backends, { N: small ? 128 : 2048, D }));
}
if (sections.includes('linear')) {
  for (const tokens of small ? [1] : [1, 128])
    for (const [rows, cols] of [
      [576, 576],
      [1536, 576],
    ])
      report(await linearSpeed(machine, { rows, cols, tokens }));
}
if (!options.quick) save();

function save() {
  const file = options.out ? resolve(options.out) : fileURLToPath(new URL('attention.jsonl', folder));
  mkdirSync(dirname(file), { recursive: true });
  const section = ({ bench, N, backend }) => `${bench} ${bench === 'prefill' ? N : ''} ${backend.split(':')[0]}`;
  const measured = new Set(results.map(section));
  const before = existsSync(file)
    ? readFileSync(file, 'utf8')
        .split('\n')
        .filter(Boolean)
        .map((line) => JSON.parse(line))
    : [];
  const lines = [...before.filter((line) => !measured.has(section(line))), ...results];
  writeFileSync(file, lines.map((line) => `${JSON.stringify(line)}\n`).join(''));
  console.log(`${results.length} measurements in ${file}`);
  if (!options.out && machine.peers.length > 0 && sections.includes('prefill')) {
    writeFileSync(new URL('attention-speed.svg', folder), drawSpeedPlot(lines));
    console.log('drew docs/results/cpu/attention-speed.svg');
  }
}
