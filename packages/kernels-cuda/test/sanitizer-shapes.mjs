// What compute-sanitizer watches (sanitize.mjs runs it, a part a process): 12 lengths x causal or not x full-int8 by two kernels and half-int8 are 72 shapes; the
// other precisions, codes, masks, graphs and streams come on top. Results are not judged here.
//   node sanitizer-shapes.mjs [part ...]
import { cudaStatus, openCudaDevice } from '../dist/index.js';

const LENGTHS = [1, 2, 63, 64, 65, 127, 128, 129, 200, 257, 511, 1023];
const PARTS = {
  short: () => attendLengths((length) => length <= 200),
  long: () => attendLengths((length) => length > 200),
  types,
  irregular,
  rest,
};
const asked = process.argv.slice(2);
const unknown = asked.filter((part) => !Object.hasOwn(PARTS, part));
if (unknown.length > 0)
  throw new Error(`Expected parts among ${Object.keys(PARTS).join(', ')}, got ${unknown.join(', ')}`);

const isHopper = cudaStatus().isa === 'sm_90';
const device = openCudaDevice();
const sine = (dims, seed) => ({
  type: 'float32',
  dims,
  data: Float32Array.from({ length: dims.reduce((a, b) => a * b, 1) }, (_, i) => Math.sin((i + 1) * seed)),
});
const mask = (type, dims) =>
  type === 'bool' ? { type, dims, data: new Uint8Array(dims[0] * dims[1]).fill(1) } : sine(dims, 0.3);
const dispose = (...owned) => {
  for (const each of owned) each?.dispose();
};

let shapes = 0;
async function attend(inputs, options) {
  const { out, lse } = await device.attention(inputs, { returnLse: true, ...options });
  dispose(out, lse);
  shapes++;
}

async function attendBaselines(inputs, options) {
  for (const baseline of ['fp16', 'bf16', 'fp8', 'flash-d']) {
    const { out, lse } = await device.baselineAttention(inputs, baseline, { ...options, returnLse: true });
    dispose(out, lse);
    shapes++;
  }
}

/** Every way to quantize; scales and means of whole channels come from several blocks of a head. */
async function quantize(tensor) {
  for (const options of [
    {},
    { smoothK: true },
    { smoothK: true, bits: 4 },
    { granularity: 'channel' },
    { granularity: 'tensor' },
  ])
    dispose(...Object.values(await device.quantize(tensor, options)));
}

for (const part of asked.length > 0 ? asked : Object.keys(PARTS)) await PARTS[part]();

if (device.liveBytes() !== 0) throw new Error(`Expected no live memory, got ${device.liveBytes()} bytes`);
await device.memory(); // gives the pool back, so that a leak check sees only leaks
device.dispose();
process.stdout.write(`${shapes} shapes\n`);

/** Head dimensions by turns. */
async function attendLengths(isWanted) {
  const before = shapes;
  const wanted = [...LENGTHS.entries()].filter(([, length]) => isWanted(length));
  for (const [index, length] of wanted) {
    const dim = [64, 128, 256, 40][index % 4];
    const query = await device.upload(sine([1, 2, length, dim], 1.1));
    const [key, value] = [
      await device.upload(sine([1, 1, length, dim], 1.3)),
      await device.upload(sine([1, 1, length, dim], 1.7)),
    ];
    const inputs = { query, key, value };
    for (const isCausal of [false, true])
      for (const [precision, kernel] of [
        ['full-int8', 'auto'],
        ...(isHopper || dim <= 128 ? [['full-int8', 'sorted']] : []),
        ['half-int8', 'auto'],
      ])
        await attend(inputs, { precision, kernel, isCausal, softcap: index === 5 && kernel === 'auto' ? 4 : 0 });
    dispose(query, key, value);
  }
  const expected = 6 * wanted.length;
  if (isHopper && shapes - before !== expected) throw new Error(`Expected ${expected} shapes, got ${shapes - before}`);
}

async function types() {
  // Inputs of 16 bits have quantizers of their own, and answers of 16 bits an end of their own; packed sequences leave tiles at every length.
  const bits = (dims, seed, type) => {
    const { data } = sine(dims, seed);
    const words = new Uint32Array(data.buffer);
    // bfloat16 is the upper half of a float32; as float16 the same bits are finite numbers too, since |sine| < 2.
    return { type, dims, data: Uint16Array.from(words, (word) => word >>> 16) };
  };
  for (const type of ['bfloat16', 'float16'])
    for (const dim of [64, 128, 256]) {
      const [query, key, value] = await Promise.all(
        [1.1, 1.3, 1.7].map((seed) => device.upload(bits([1, 2, 200, dim], seed, type))),
      );
      for (const [precision, kernel] of [
        ['full-int8', 'auto'],
        ['full-int8', 'portable'],
        ['half-int8', 'auto'],
        ['half-int8', 'portable'],
      ])
        await attend({ query, key, value }, { precision, kernel, isCausal: dim === 128, outType: type });
      await quantize(key);
      dispose(query, key, value);
    }
  {
    const [query, key, value] = await Promise.all(
      [1.1, 1.3, 1.7].map((seed) => device.upload(sine([300, 2, 128], seed))),
    );
    const packed = {
      tensorLayout: 'NHD',
      cuSeqlensQ: [0, 1, 1, 66, 300],
      cuSeqlensK: [0, 129, 130, 130, 300],
      isCausal: true,
      causalAlignment: 'bottom-right',
    };
    for (const [precision, kernel] of [
      ['full-int8', 'auto'],
      ['full-int8', 'sorted'],
      ['full-int8', 'portable'],
      ['half-int8', 'auto'],
    ])
      for (const windowSize of [
        [-1, -1],
        [30, -1],
      ])
        await attend({ query, key, value }, { ...packed, precision, kernel, windowSize });
    for (const softcap of [0, 4]) await attendBaselines({ query, key, value }, { ...packed, softcap });
    dispose(query, key, value);
  }
  {
    // Few queries and many keys: in parts.
    const [query, key, value] = await Promise.all(
      [3, 6300, 6300].map((tokens, i) => device.upload(bits([1, 1, tokens, 64], 1.1 + 0.2 * i, 'bfloat16'))),
    );
    for (const precision of ['full-int8', 'half-int8'])
      await attend({ query, key, value }, { precision, outType: 'bfloat16' });
    dispose(query, key, value);
  }
  for (const [dim, type] of [
    [40, 'bool'],
    [72, 'float32'],
    [200, 'bool'],
  ]) {
    const [query, key, value] = await Promise.all(
      [1.1, 1.3, 1.7].map((seed) => device.upload(sine([2, 2, 70, dim], seed))),
    );
    const attnMask = await device.upload(mask(type, [70, 70]));
    await attendBaselines({ query, key, value }, { attnMask, windowSize: [40, 10] });
    dispose(query, key, value, attnMask);
  }
}

/** Values wider and narrower than keys, rows of which nothing is aligned, and windows. */
async function irregular() {
  for (const [dim, valueDim] of [
    [64, 128],
    [128, 40],
    [256, 72],
  ]) {
    const [memory, views] = [[], []];
    for (const [heads, tokens, width] of [
      [2, 130, dim],
      [1, 200, dim],
      [1, 200, valueDim],
    ]) {
      const [token, elementOffset] = [width + 3, 3 + 2 * views.length];
      const whole = await device.upload(sine([elementOffset + heads * tokens * token], 1.1 + 0.2 * views.length));
      memory.push(whole);
      views.push(whole.view([1, heads, tokens, width], { strides: [0, tokens * token, token, 1], elementOffset }));
    }
    const [query, key, value] = views;
    for (const visible of [{ windowSize: [40, 10] }, { isCausal: true, causalAlignment: 'bottom-right' }]) {
      for (const [precision, kernel] of [
        ['full-int8', 'auto'],
        ...(isHopper || Math.max(dim, valueDim) <= 128 ? [['full-int8', 'sorted']] : []),
        ['full-int8', 'portable'],
        ['half-int8', 'auto'],
        ['half-int8', 'portable'],
      ])
        await attend({ query, key, value }, { ...visible, precision, kernel });
    }
    await attendBaselines({ query, key, value }, { windowSize: [40, 10] });
    await quantize(value);
    dispose(...memory);
  }
}

async function rest() {
  // Hopper's warpgroups share the queries of a few heads where there are keys enough; of the lengths that is so at head dimensions 40 and 256.
  {
    const long = await device.upload(sine([1, 2, 900, 128], 1.1));
    for (const isCausal of [false, true])
      for (const precision of ['full-int8', 'half-int8'])
        await attend({ query: long, key: long, value: long }, { precision, isCausal });
    dispose(long);
  }
  const query = await device.upload(sine([2, 4, 130, 72], 1.1));
  const [key, value] = [
    await device.upload(sine([2, 2, 200, 72], 1.3)),
    await device.upload(sine([2, 2, 200, 72], 1.7)),
  ];
  const inputs = { query, key, value };
  for (const precision of ['paper-int8', 'int4-qk', 'fp32']) await attend(inputs, { precision });
  for (const type of ['bool', 'float32']) {
    const attnMask = await device.upload(mask(type, [130, 200]));
    await attend(inputs, { attnMask });
    dispose(attnMask);
  }
  const [q, k, v] = [
    await device.quantize(query),
    await device.quantize(key),
    await device.quantize(value, { bits: 4 }),
  ];
  const codes = { q: q.codes, k: k.codes, v: v.codes, qScale: q.scales, kScale: k.scales, vScale: v.scales };
  dispose((await device.quantizedAttention(codes)).out);
  const half = { q: q.codes, k: k.codes, v: value, qScale: q.scales, kScale: k.scales };
  dispose((await device.quantizedAttention(half, { precision: 'half-int8' })).out);
  await quantize(query);
  const long = await device.upload(sine([1, 2, 1100, 72], 1.1)); // more than a block's tiles and rows
  await quantize(long);
  await quantize(long.view([2, 500, 64], { strides: [64, 129, 1], elementOffset: 3 })); // nothing aligned
  await quantize(long.view([2, 0, 64]));
  dispose(long);
  const packed = await device.packInt4(v.codes);
  dispose(await device.unpackInt4(packed), packed);
  dispose(...Object.values(codes));

  const graph = await device.capture(async (recorder) => {
    const { out } = await recorder.attention(inputs, { returnLse: true });
    return [
      await recorder.quantize(out),
      await recorder.quantize(out, { smoothK: true }),
      await recorder.quantize(out, { granularity: 'tensor' }),
    ];
  });
  await graph.replay({ repeats: 3 });
  const stream = device.createStream();
  await graph.replay({ stream });
  const event = stream.record();
  const other = device.createStream();
  await other.wait(event);
  await event.done();
  const pinned = await device.pinned('float32', query.size);
  await query.download({ into: pinned.data, stream: other });
  await query.write(pinned.data, { stream });
  dispose(graph, pinned, stream, other, query, key, value);

  // Decoding from INT4 caches, so many that a block takes several runs of keys.
  const caches = { sequences: 16, length: 2100, heads: 16, kvHeads: 8, headDim: 128 };
  await device.timeCacheAttention({ ...caches, int4: true, runs: true, repeats: 1 });
}
