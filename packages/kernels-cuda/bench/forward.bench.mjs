// The forward kernels alone (inputs quantized before), and the quantizers beside them. Each shape is first checked against float64
// on a slice of its heads. TOPS = 4·B·H·N²·D / time, half of that when causal; median of 20 runs after 2, by CUDA events.
import { cudaStatus, openCudaDevice } from '../dist/index.js';

const SHAPES = [
  { batch: 4, heads: 32, tokens: 4096, headDim: 128 },
  { batch: 4, heads: 32, tokens: 4096, headDim: 128, isCausal: true },
  { batch: 2, heads: 16, tokens: 16384, headDim: 128 },
  { batch: 4, heads: 32, tokens: 4096, headDim: 64 },
  { batch: 4, heads: 32, tokens: 1024, headDim: 128 },
  { batch: 2, heads: 16, tokens: 4096, headDim: 256 },
];
const CEILINGS = { 'full-int8': 0.016, 'half-int8': 0.0105, 'paper-int8': 0.06 };

const status = cudaStatus();
if (!status.available) {
  console.log(`forward: skipped, ${status.detail}`);
} else {
  await run();
}

async function run() {
  const device = openCudaDevice();
  console.log(`${device.name}: ${status.detail}`);
  console.log('batch heads tokens dim causal precision   forward ms  TOPS  quantize ms  relative L2');
  for (const { batch, heads, tokens, headDim, isCausal = false } of SHAPES.slice(
    0,
    Number(process.argv[2] ?? SHAPES.length),
  )) {
    const dims = [batch, heads, tokens, headDim];
    const strides = [0, tokens * headDim, headDim, 1]; // batch members share their numbers
    const tensors = [];
    for (let seed = 1; seed <= 3; seed++)
      tensors.push(
        await device.upload({ type: 'float32', dims, strides, data: normal(heads * tokens * headDim, seed) }),
      );
    const [query, key, value] = tensors;
    for (const [precision, ceiling] of Object.entries(CEILINGS)) {
      const relativeL2 = await checkSlice(device, tensors, { tokens, headDim, isCausal, precision });
      if (!(relativeL2 <= ceiling))
        throw new Error(`Expected a relative L2 up to ${ceiling}, got ${relativeL2} for ${precision} at ${dims}`);
      const { out, forwardMs, quantizeMs } = await device.attention(
        { query, key, value },
        { precision, isCausal, repeats: 22 },
      );
      out.dispose();
      const ms = forwardMs.slice(2).sort((a, b) => a - b)[10];
      const operations = (4 * batch * heads * tokens * tokens * headDim) / (isCausal ? 2 : 1);
      const cells = [
        batch,
        heads,
        tokens,
        headDim,
        isCausal,
        precision,
        ms.toFixed(3),
        Math.round(operations / ms / 1e9),
        quantizeMs.toFixed(3),
        relativeL2.toFixed(5),
      ];
      console.log(cells.join(' '));
    }
    for (const tensor of tensors) tensor.dispose();
  }
  device.dispose();
}

/** 256 queries of one head, the last ones, against float64. */
async function checkSlice(device, tensors, { tokens, headDim, isCausal, precision }) {
  const rows = 256;
  const [query, key, value] = tensors.map((tensor, i) =>
    i === 0
      ? tensor.view([1, 1, rows, headDim], { elementOffset: (tokens - rows) * headDim })
      : tensor.view([1, 1, tokens, headDim]),
  );
  const options = { isCausal, causalAlignment: 'bottom-right' };
  const [got, exact] = [
    await device.attention({ query, key, value }, { ...options, precision }),
    await device.exactAttention({ query, key, value }, options),
  ];
  const { relativeL2, odd } = await device.compare(got.out, exact.out);
  got.out.dispose();
  exact.out.dispose();
  return odd === 0 ? relativeL2 : Number.NaN;
}

function normal(count, seed) {
  const data = new Float32Array(count);
  const fresh = Math.min(count, 1 << 22);
  let state = seed * 0x9e3779b9;
  const uniform = () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
  for (let i = 0; i < fresh; i++) data[i] = Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform());
  for (let i = fresh; i < count; i++) data[i] = data[Math.imul(i, 0x9e3779b1) & (fresh - 1)]; // the same numbers, shuffled
  return data;
}
