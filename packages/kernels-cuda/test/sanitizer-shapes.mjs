// 48 shapes for compute-sanitizer: `compute-sanitizer --tool memcheck node packages/kernels-cuda/test/sanitizer-shapes.mjs`.
// 12 lengths x causal or not x full-int8 and half-int8, and the other precisions once each; results are not judged here.
import { openCudaDevice } from '../dist/index.js';

const LENGTHS = [1, 2, 63, 64, 65, 127, 128, 129, 200, 257, 511, 1023];
const device = openCudaDevice();
let shapes = 0;
const upload = (dims, seed) => {
  const count = dims.reduce((a, b) => a * b, 1);
  return device.upload({
    type: 'float32',
    dims,
    data: Float32Array.from({ length: count }, (_, i) => Math.sin(i * seed)),
  });
};
for (const [index, length] of LENGTHS.entries()) {
  const dim = [64, 128, 256, 40][index % 4];
  const [query, key, value] = [
    await upload([1, 2, length, dim], 1.1),
    await upload([1, 1, length, dim], 1.3),
    await upload([1, 1, length, dim], 1.7),
  ];
  for (const isCausal of [false, true]) {
    for (const precision of ['full-int8', 'half-int8', ...(index === 7 ? ['paper-int8', 'int4-qk', 'fp32'] : [])]) {
      const { out, lse } = await device.attention(
        { query, key, value },
        { precision, isCausal, returnLse: true, softcap: index === 5 ? 4 : 0 },
      );
      out.dispose();
      lse.dispose();
      shapes++;
    }
  }
  for (const tensor of [query, key, value]) tensor.dispose();
}
if (device.liveBytes() !== 0) throw new Error(`Expected no live memory, got ${device.liveBytes()} bytes`);
await device.memory(); // gives the pool back, so that a leak check sees only leaks
device.dispose();
process.stdout.write(`${shapes} shapes\n`);
