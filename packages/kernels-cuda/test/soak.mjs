// Rounds of upload, attention and disposal, a line of JSON every tenth of them: what stays on the device and in the process. Fails when
// live bytes are not exactly 0 at the end, or device memory is not within 2 MiB of what it was after the first rounds.
//   node packages/kernels-cuda/test/soak.mjs [rounds = 10000]
import { openCudaDevice } from '../dist/index.js';
import { sourcesDigest } from './sources-digest.mjs';

const rounds = Number(process.argv[2] ?? 10_000);
if (!Number.isInteger(rounds) || rounds < 10) throw new Error(`Expected 10 rounds or more, got ${process.argv[2]}`);
const MIB = 2 ** 20;
const device = openCudaDevice();
const sine = (dims, seed) => ({
  type: 'float32',
  dims,
  data: Float32Array.from({ length: dims.reduce((a, b) => a * b, 1) }, (_, i) => Math.sin((i + 1) * seed)),
});
const inputs = [64, 128, 40].map((dim) => sine([1, 2, 100, dim], 1.1));
const PRECISIONS = ['full-int8', 'half-int8', 'paper-int8', 'int4-qk', 'fp32'];

async function round(i) {
  const t = await device.upload(inputs[i % inputs.length]);
  const given = { query: t, key: t, value: t };
  const options = { precision: PRECISIONS[i % PRECISIONS.length], returnLse: i % 2 === 0, isCausal: i % 3 === 0 };
  const { out, lse } = await device.attention(given, options);
  if (i % 50 === 0) {
    const graph = await device.capture((recorder) => recorder.attention(given, { outType: 'bfloat16' }));
    await graph.replay();
    graph.dispose();
  }
  for (const tensor of [out, lse, t]) tensor?.dispose();
}

const started = performance.now();
async function report(done) {
  const { free } = await device.memory();
  const line = {
    rounds: done,
    liveBytes: device.liveBytes(),
    freeBytes: free,
    rssMiB: Math.round(process.memoryUsage().rss / MIB),
    seconds: Math.round((performance.now() - started) / 100) / 10,
  };
  process.stdout.write(`${JSON.stringify(line)}\n`);
  return line;
}

for (let i = 0; i < 60; i++) await round(i); // every kind of round once: kernels are loaded, pools have grown
const before = await report(0);
let after = before;
for (let i = 1; i <= rounds; i++) {
  await round(i);
  if (i % Math.floor(rounds / 10) === 0 || i === rounds) after = await report(i);
}
device.dispose();
const moved = Math.abs(after.freeBytes - before.freeBytes);
const passed = after.liveBytes === 0 && moved <= 2 * MIB;
const result = { check: 'soak', rounds, passed, liveBytes: after.liveBytes, deviceBytesMoved: moved };
process.stdout.write(`${JSON.stringify({ ...result, sourcesDigest: sourcesDigest() })}\n`);
process.exitCode = passed ? 0 : 1;
