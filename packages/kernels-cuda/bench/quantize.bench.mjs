// The quantizers of attention alone, into sorted tiles and into plain ones, those of a tensor by itself (device.quantize), and INT4 codes two a byte and back (packInt4, unpackInt4), beside a copy within the
// device of as many bytes in the same run. Attention's answer for each shape is first checked against float64; the bits of the device's own calls are their tests' business. Bytes are what a quantizer without a cache could not avoid: Q once, K and V twice (what a channel needs
// of all its tokens, then the codes), a tensor twice where its means, or a scale a channel or for all of it, come before the codes, codes to pack or unpack once, and what is written. An operand is too large for L2, but a head of it may still be there when it is
// read for the second time: a share above 1 is possible, and not a fault of the clock. Median of 20 after 2.
//   node packages/kernels-cuda/bench/quantize.bench.mjs [--json] [--commit name] [--tensors]
//   --tensors: tensors by themselves alone
import { parseArgs } from 'node:util';
import { measuredOn } from '../../../tools/measured-on.mjs';
import { median } from '../../../tools/median.mjs';
import { cudaStatus, openCudaDevice } from '../dist/index.js';
import { normalInputs } from './normal-inputs.mjs';

const SHAPES = [
  { batch: 4, heads: 32, tokens: 4096, headDim: 128 },
  { batch: 2, heads: 16, tokens: 16384, headDim: 128 },
  { batch: 4, heads: 32, tokens: 4096, headDim: 64 },
  { batch: 2, heads: 16, tokens: 8192, headDim: 256 },
  { batch: 4, heads: 32, kvHeads: 8, tokens: 4096, headDim: 128 },
];
/** By `auto` into sorted tiles where the GPU has a kernel for them; the others are plain. */
const VARIANTS = [
  { precision: 'full-int8', kernel: 'auto', ceiling: 0.016 },
  { precision: 'half-int8', kernel: 'auto', ceiling: 0.016 },
  { precision: 'full-int8', kernel: 'portable', ceiling: 0.016 },
  { precision: 'half-int8', kernel: 'portable', ceiling: 0.016 },
  { precision: 'paper-int8', kernel: 'portable', ceiling: 0.06 },
  { precision: 'int4-qk', kernel: 'portable', ceiling: 0.25 },
];
/** Of a tensor by itself. */
const WAYS = [
  { bits: 8 },
  { bits: 4 },
  { bits: 8, smoothK: true },
  { bits: 8, granularity: 'channel' },
  { bits: 8, granularity: 'tensor' },
];
const TYPE_BYTES = { float32: 4, float16: 2, bfloat16: 2 };
const REPEATS = 22;

const { values: given } = parseArgs({
  options: {
    json: { type: 'boolean', default: false },
    commit: { type: 'string' },
    tensors: { type: 'boolean', default: false },
  },
  strict: false, // `npm run bench` hands every benchmark the same arguments
});
const commit = given.commit ?? measuredOn().commit;
const status = cudaStatus();
const say = (line) => {
  if (!given.json) console.log(line);
};
if (!status.available) say(`quantize: skipped, ${status.detail}`);
else await run();

async function run() {
  const device = openCudaDevice();
  say(`${device.name}: ${status.detail}`);
  say('batch heads kvHeads tokens dim precision kernel type   quantize ms  GB/s  copy GB/s  share  relative L2');
  for (const { batch, heads, kvHeads = heads, tokens, headDim } of SHAPES) {
    for (const type of Object.keys(TYPE_BYTES)) {
      const tensors = [];
      for (const [seed, count] of [
        [1, heads],
        [2, kvHeads],
        [3, kvHeads],
      ]) {
        const data = normalInputs(batch * count * tokens * headDim, seed, type);
        tensors.push(await device.upload({ type, dims: [batch, count, tokens, headDim], data }));
      }
      for (const { precision, kernel, ceiling } of given.tensors ? [] : VARIANTS) {
        const relativeL2 = await checkSlice(device, tensors, { tokens, headDim, precision, kernel });
        if (!(relativeL2 <= ceiling)) throw new Error(`Expected a relative L2 up to ${ceiling}, got ${relativeL2}`);
        const bytes = traffic({ batch, heads, kvHeads, tokens, headDim, precision, size: TYPE_BYTES[type] });
        const [query, key, value] = tensors;
        const { out, quantizeRepeatMs } = await device.attention(
          { query, key, value },
          { precision, kernel, repeats: REPEATS },
        );
        out.dispose();
        const ms = median(quantizeRepeatMs.slice(2));
        const copyMs = await copyMsOf(device, bytes);
        const shape = { batch, heads, kvHeads, tokens, headDim };
        tell(device, { ...shape, precision, kernel, type, relativeL2 }, { ms, bytes, copyMs });
      }
      for (const way of WAYS) await timeTensor(device, tensors[0], way);
      if (type === 'float32') await timePacking(device, tensors[0]); // codes know nothing of what they were made of
      for (const tensor of tensors) tensor.dispose();
    }
  }
  device.dispose();
}

/** `share`: of what a copy of as many bytes takes. */
function tell(device, what, { ms, bytes, copyMs }) {
  const measured = { ms, gbPerS: bytes / ms / 1e6, copyGbPerS: bytes / copyMs / 1e6, share: copyMs / ms };
  if (given.json) console.log(JSON.stringify({ bench: 'quantize', gpu: device.name, commit, ...what, ...measured }));
  const rate = `${ms.toFixed(3)} ${Math.round(measured.gbPerS)} ${Math.round(measured.copyGbPerS)} ${measured.share.toFixed(2)}`;
  if (what.call) return say(`${what.call} ${what.dims.join(' ')} ${rate}`);
  if (what.dims) {
    const way = what.smoothK ? ', smoothK' : what.granularity ? `, a scale a ${what.granularity}` : '';
    return say(`quantize ${what.dims.join(' ')} ${what.type} to ${what.bits} bits${way} ${rate}`);
  }
  const { relativeL2, ...shape } = what;
  say(`${Object.values(shape).join(' ')} ${rate} ${relativeL2.toFixed(5)}`);
}

/** A tensor's own codes: it is read, once or twice, and codes, scales and means are written. */
async function timeTensor(device, tensor, way) {
  const { ms, made } = await timeCall(device, (recorder) => recorder.quantize(tensor, way));
  const { scales, means } = made;
  const reads = way.smoothK || way.granularity ? 2 : 1;
  const bytes = tensor.size * (reads * TYPE_BYTES[tensor.type] + 1) + (scales.size + (means?.size ?? 0)) * 4;
  tell(device, { dims: tensor.dims, type: tensor.type, ...way }, { ms, bytes, copyMs: await copyMsOf(device, bytes) });
}

/** A tensor's INT4 codes, two a byte and a byte each again: one of them is read, the other is written. */
async function timePacking(device, tensor) {
  const { codes, scales } = await device.quantize(tensor, { bits: 4 });
  const packed = await device.packInt4(codes);
  const bytes = codes.size + packed.size;
  for (const [call, from] of Object.entries({ packInt4: codes, unpackInt4: packed })) {
    const { ms } = await timeCall(device, (recorder) => recorder[call](from));
    tell(device, { dims: from.dims, type: from.type, call }, { ms, bytes, copyMs: await copyMsOf(device, bytes) });
  }
  for (const made of [codes, scales, packed]) made.dispose();
}

/** Several times a launch, as a program would. */
async function timeCall(device, call) {
  const together = 8;
  const graph = await device.capture(async (recorder) => {
    let made;
    for (let i = 0; i < together; i++) made = await call(recorder);
    return made;
  });
  const times = [];
  for (let i = 0; i < REPEATS; i++) times.push((await graph.replay()).ms / together);
  graph.dispose();
  return { ms: median(times.slice(2)), made: graph.result };
}

/** Of a copy that reads and writes so many bytes in all. */
async function copyMsOf(device, bytes) {
  return median((await device.timeCopy(Math.round(bytes / 2), REPEATS)).slice(2));
}

/** Bytes read and written. half-int8 reads V once: it needs nothing of whole channels, and writes float16. paper-int8 reads K once, whose means it leaves. */
function traffic({ batch, heads, kvHeads, tokens, headDim, precision, size }) {
  const keyReads = precision === 'paper-int8' ? 1 : 2;
  const query = batch * heads * tokens;
  const key = batch * kvHeads * tokens;
  const value = precision === 'half-int8' ? headDim * (size + 2) : headDim * (2 * size + 1);
  return query * (headDim * (size + 1) + 4) + key * (headDim * (keyReads * size + 1) + value + 12);
}

/** 128 queries of one head against float64. */
async function checkSlice(device, [query, key, value], { tokens, headDim, precision, kernel }) {
  const inputs = {
    query: query.view([1, 1, 128, headDim]),
    key: key.view([1, 1, tokens, headDim]),
    value: value.view([1, 1, tokens, headDim]),
  };
  const [got, exact] = [await device.attention(inputs, { precision, kernel }), await device.exactAttention(inputs)];
  const { relativeL2, odd } = await device.compare(got.out, exact.out);
  got.out.dispose();
  exact.out.dispose();
  return odd === 0 ? relativeL2 : Number.NaN;
}
