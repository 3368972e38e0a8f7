// Attention on the GPU beside PyTorch's on the same GPU in the same run; `npm run bench:gpu` starts it.
//   node packages/kernels-cuda/bench/bench-gpu.mjs [--shapes n] [--head-dims 64,128] [--variants a,b] [--out lines.jsonl] [--commit name]
// A line a shape and variant, which takes the place of the file's line about the same: what issue trackers and plots read. Each shape is
// checked against float64 before it is timed; inputs are random bfloat16, three sets in turn. TOPS = 4·B·H·N²·D / time, half of that when
// causal.
//   entry "kernel": the forward alone, quantized before.   entry "end-to-end": quantizers and forward from bfloat16, replayed as a graph.
import { spawnSync } from 'node:child_process';
import { mkdirSync } from 'node:fs';
import { dirname, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { keepLine } from '../../../tools/keep-line.mjs';
import { measuredOn } from '../../../tools/measured-on.mjs';
import { median } from '../../../tools/median.mjs';
import { cudaStatus, openCudaDevice } from '../dist/index.js';
import { FORWARD_SHAPES } from './forward-shapes.mjs';
import { normalInputs } from './normal-inputs.mjs';

const SETS = 3;
const VARIANTS = [
  { variant: 'full-int8', options: { precision: 'full-int8' }, ceiling: 0.0165 },
  { variant: 'half-int8', options: { precision: 'half-int8' }, ceiling: 0.0115 },
  { variant: 'full-int8-sorted', options: { precision: 'full-int8', kernel: 'sorted' }, ceiling: 0.0165 },
  { variant: 'full-int8-portable', options: { precision: 'full-int8', kernel: 'portable' }, ceiling: 0.0155 },
  { variant: 'half-int8-portable', options: { precision: 'half-int8', kernel: 'portable' }, ceiling: 0.0115 },
  { variant: 'paper-int8', options: { precision: 'paper-int8' }, ceiling: 0.06 },
];

const { values: given } = parseArgs({
  options: {
    shapes: { type: 'string' },
    'head-dims': { type: 'string' },
    variants: { type: 'string' },
    out: { type: 'string' },
    commit: { type: 'string' },
  },
});
const status = cudaStatus();
if (!status.available) {
  process.stdout.write(`bench:gpu needs a GPU: ${status.detail}\n`);
  process.exitCode = 1;
} else {
  await run();
}

async function run() {
  const asked = VARIANTS.filter(({ variant }) => !given.variants || given.variants.split(',').includes(variant));
  const headDims = given['head-dims']?.split(',').map(Number);
  const shapes = FORWARD_SHAPES.slice(0, Number(given.shapes ?? FORWARD_SHAPES.length)).filter(
    ({ D }) => !headDims || headDims.includes(D),
  );
  const peers = peerTimes(shapes);
  const device = openCudaDevice();
  let lines = 0;
  const out = resolve(
    given.out ?? fileURLToPath(new URL('../../../docs/results/h200/attention-forward.jsonl', import.meta.url)),
  );
  mkdirSync(dirname(out), { recursive: true });
  const commit = given.commit ?? measuredOn().commit;
  process.stdout.write(`${device.name}, ${status.detail}\n`);
  process.stdout.write(
    'B H Hkv N D causal variant kernel: ms TOPS x-cuDNN | end to end: ms x-cuDNN | rel. L2 | quantizers ms\n',
  );
  for (const shape of shapes) {
    const sets = [];
    for (let seed = 0; seed < SETS; seed++) sets.push(await uploadSet(device, shape, seed));
    const peer = peers(shape);
    for (const { variant, options, ceiling } of asked) {
      if (options.kernel === 'sorted' && shape.D > 128 && status.isa !== 'sm_90') continue; // not every GPU has the memory
      // As the peers do: bfloat16 in, bfloat16 out.
      const all = { ...options, isCausal: shape.causal, enableGqa: shape.H !== shape.Hkv, outType: 'bfloat16' };
      const relL2 = await errorOf(device, sets[0], shape, all);
      if (!(relL2 <= ceiling)) throw new Error(`Expected a relative L2 up to ${ceiling}, got ${relL2}: ${variant}`);
      const { kernelMs, quantizeMs } = await kernelTime(device, sets, all);
      const wholeMs = await endToEndTime(device, sets, all);
      const operations = (4 * shape.B * shape.H * shape.N ** 2 * shape.D) / (shape.causal ? 2 : 1);
      for (const [entry, ms] of [
        ['kernel', kernelMs],
        ['end-to-end', wholeMs],
      ]) {
        const about = { bench: 'attention-forward', commit, gpu: device.name, variant, entry, ...shape };
        const tops = Math.round(operations / ms / 1e9);
        keepLine(out, { ...about, ms: rounded(ms, 5), tops, relL2: rounded(relL2, 5), peer }, (line) => [
          line.gpu,
          line.variant,
          line.entry,
          ...Object.keys(shape).map((name) => line[name]),
        ]);
        lines++;
      }
      const ratio = (ms) => (peer['cudnn-bf16'] ? (peer['cudnn-bf16'] / ms).toFixed(2) : '-');
      process.stdout.write(
        `${Object.values(shape).join(' ')} ${variant}: ${kernelMs.toFixed(3)} ${Math.round(operations / kernelMs / 1e9)} ${ratio(kernelMs)} | ${wholeMs.toFixed(3)} ${ratio(wholeMs)} | ${relL2.toFixed(4)} | ${quantizeMs.toFixed(3)}\n`,
      );
    }
    for (const set of sets) for (const tensor of Object.values(set)) tensor.dispose();
  }
  device.dispose();
  process.stdout.write(`${lines} lines in ${out}\n`);
}

/** Milliseconds of PyTorch's kernels by shape; none where there is no PyTorch. */
function peerTimes(shapes) {
  const script = fileURLToPath(new URL('sdpa_peers.py', import.meta.url));
  const { stdout, status: code } = spawnSync('python3', [script], { input: JSON.stringify(shapes), encoding: 'utf8' });
  if (code !== 0) process.stdout.write('no peers: python3 with PyTorch did not run\n');
  const measured = (stdout ?? '')
    .split('\n')
    .filter(Boolean)
    .map((line) => JSON.parse(line));
  return (shape) =>
    Object.fromEntries(
      measured
        .filter((line) => Object.entries(shape).every(([name, value]) => line[name] === value))
        .map(({ peer, ms }) => [peer, rounded(ms, 5)]),
    );
}

async function uploadSet(device, { B, H, Hkv, N, D }, seed) {
  const upload = (heads, which) =>
    device.upload({
      type: 'bfloat16',
      dims: [B, heads, N, D],
      data: normalInputs(B * heads * N * D, 3 * seed + which, 'bfloat16'),
    });
  return { query: await upload(H, 1), key: await upload(Hkv, 2), value: await upload(Hkv, 3) };
}

/** Up to 256 queries of one head, the last ones, against float64. */
async function errorOf(device, { query, key, value }, { N, D }, options) {
  const rows = Math.min(256, N);
  const inputs = {
    query: query.view([1, 1, rows, D], { elementOffset: (N - rows) * D }),
    key: key.view([1, 1, N, D]),
    value: value.view([1, 1, N, D]),
  };
  const visible = { isCausal: options.isCausal, causalAlignment: 'bottom-right' };
  const got = await device.attention(inputs, { ...options, ...visible, enableGqa: false, outType: 'float32' });
  const exact = await device.exactAttention(inputs, visible);
  const { relativeL2, odd } = await device.compare(got.out, exact.out);
  got.out.dispose();
  exact.out.dispose();
  return odd === 0 ? relativeL2 : Number.NaN;
}

async function kernelTime(device, sets, options) {
  const forward = [];
  const quantize = [];
  for (let round = 0; round < 2; round++)
    for (const set of sets) {
      const { out, forwardMs, quantizeRepeatMs } = await device.attention(set, { ...options, repeats: 6 });
      out.dispose();
      forward.push(...forwardMs.slice(1));
      quantize.push(...quantizeRepeatMs.slice(1));
    }
  return { kernelMs: median(forward), quantizeMs: median(quantize) };
}

async function endToEndTime(device, sets, options) {
  const graph = await device.capture(async (recorder) => {
    for (const set of sets) await recorder.attention(set, options);
  });
  await graph.replay();
  const times = [];
  for (let i = 0; i < 9; i++) times.push((await graph.replay()).ms / sets.length);
  graph.dispose();
  return median(times);
}

function rounded(value, digits) {
  return Number(value.toFixed(digits));
}
