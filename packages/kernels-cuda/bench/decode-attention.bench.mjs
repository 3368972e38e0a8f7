// Attention of one token a sequence against INT8 and INT4 caches, beside a copy within the device: GB/s of the cache's bytes, and their part
// of what the copy moves (it reads and writes). A time is a launch's in a row of ten, as a step's layers follow each other but with nothing between
// them: queued while the GPU is busy, so that the host's part does not count but the GPU's own gaps do; CUDA events, median of 30. First loads of a
// launch overlap the end of the one before, as in a step they overlap the append. Layers are 256 MB and more in all, so that none is in the GPU's cache.
// `split`: how keys are shared out to blocks; decoders take runs.
//   node packages/kernels-cuda/bench/decode-attention.bench.mjs [--json]
import { median } from '../../../tools/median.mjs';
import { cudaStatus, openCudaDevice } from '../dist/index.js';

const json = process.argv.includes('--json');
const { available, detail } = cudaStatus();
if (!available) {
  if (!json) console.log(`decode attention: skipped, ${detail}`);
  process.exit(0);
}
const MODELS = {
  'Llama-3.1-8B': { heads: 32, kvHeads: 8, headDim: 128 },
  'Llama-3.2-1B': { heads: 32, kvHeads: 8, headDim: 64 },
};
/** [sequences, tokens in each] */
const LOADS = [
  [1, 4096],
  [1, 16384],
  [1, 65536],
  [4, 4096],
  [16, 1024],
  [16, 8192],
  [64, 1024],
  [64, 4096],
  [64, 8192],
];
const REPEATS = 30;
const device = openCudaDevice();
const COPIED = 2 ** 29;
const copyRate = (2 * COPIED) / median(await device.timeCopy(COPIED, REPEATS)) / 1e6;
if (!json) {
  console.log(`${device.name}: a copy within the device moves ${copyRate.toFixed(0)} GB/s`);
  console.log('model          sequences  tokens cache split      MB        µs    GB/s  of a copy');
}
for (const [model, shape] of Object.entries(MODELS)) {
  for (const [sequences, length] of LOADS) {
    for (const cache of ['int8', 'int4']) {
      const rowBytes = cache === 'int4' ? shape.headDim / 2 : shape.headDim;
      const bytes = sequences * length * shape.kvHeads * (2 * rowBytes + 12);
      for (const split of ['tiles', 'runs']) {
        const request = {
          ...shape,
          sequences,
          length,
          int4: cache === 'int4',
          runs: split === 'runs',
          repeats: REPEATS,
        };
        const ms = median(await device.timeCacheAttention(request));
        const rate = bytes / ms / 1e6;
        const line = { bench: 'decode-attention', gpu: device.name, model, sequences, length, cache, split };
        if (json) console.log(JSON.stringify({ ...line, bytes, ms, gbPerS: rate, ofCopy: rate / copyRate }));
        else
          console.log(
            `${model.padEnd(14)}${String(sequences).padStart(10)}${String(length).padStart(8)} ${cache}  ${split}${(bytes / 1e6).toFixed(0).padStart(8)}${(ms * 1e3).toFixed(1).padStart(10)}${rate.toFixed(0).padStart(8)}${`${((100 * rate) / copyRate).toFixed(0)}%`.padStart(11)}`,
          );
      }
    }
  }
}
if (device.liveBytes() !== 0) throw new Error(`Expected no live memory, got ${device.liveBytes()} bytes`);
device.dispose();
