// Attention where the driver may only compile PTX; see ptx-only.gpu.test.ts, which sets CUDA_FORCE_PTX_JIT=1.
//   node ptx-only.mjs <path of the addon>
import { createRequire } from 'node:module';
import { normalInputs } from '../bench/normal-inputs.mjs';

const [path] = process.argv.slice(2);
const addon = createRequire(import.meta.url)(path);
const [heads, tokens, dim] = [2, 100, 64];
const size = heads * tokens * dim;
const strides = { batch: 0, head: tokens * dim, token: dim };
const [query, key, value] = [1, 2, 3].map((seed) => ({ type: 0, data: normalInputs(size, seed, 'float32'), strides }));
const request = {
  precision: 0,
  smoothK: true,
  heads,
  kvHeads: heads,
  headDim: dim,
  headDimV: dim,
  sequences: Float64Array.of(0, tokens, 0, tokens),
  scale: Math.fround(1 / 8),
  softcap: 0,
  windowLeft: Infinity,
  windowRight: Infinity,
  bottomRight: false,
  query,
  key,
  value,
  outStrides: strides,
  lseStrides: { batch: 0, head: tokens, token: 1 },
  outElements: size,
  lseElements: 0,
  returnLse: false,
};

/** Which kernel answers a request for `kernel`, as KERNELS numbers them, or the code of the error. */
function attend(device, kernel, changes = {}) {
  const out = new Float32Array(size);
  try {
    const answer = addon.attentionSync(device, { ...request, kernel, out, ...changes });
    return { kernel: answer.kernel, out: Array.from(out) };
  } catch ({ code, message }) {
    return { code, message };
  }
}

const { architectures } = addon.probe();
const device = addon.openDevice(0);
const fp8 = attend(device, 0, { precision: 8 });
const result = { architectures, auto: attend(device, 0), hopper: attend(device, 3), fp8 };
addon.closeDevice(device);
process.stdout.write(JSON.stringify({ ...result, inputs: [query, key, value].map(({ data }) => Array.from(data)) }));
