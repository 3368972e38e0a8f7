import {
  fromFloat32,
  judgeAttention,
  judgeQuantizedAttention,
  type KvCacheView,
  type LinearWeights,
} from '@int-flash/ops';
import { packInt4, quantizePerTokenInt8 } from '@int-flash/quant';
import {
  cacheAttention,
  int8Attention,
  makeInputs,
  predictRelativeRms,
  relativeL2,
  softmaxAttention,
} from '@int-flash/reference';
import { describe, expect, it } from 'vitest';
import { createCpuBackend, createPortableBackend, supportedIsas } from '../src/index.js';
import { randomCodes, randomFloats, randomScales, unequalBits } from './native-inputs.js';

const isas = supportedIsas();
const PRECISIONS = ['full-int8', 'half-int8', 'paper-int8', 'int4-qk', 'fp32'] as const;
const tensor = (dims: number[], seed: number) => ({
  type: 'float32',
  dims,
  data: randomFloats(
    dims.reduce((a, b) => a * b, 1),
    seed,
  ),
});

describe.skipIf(isas.length === 0)('native backend against the integer twin, bit for bit', () => {
  const float = isas.flatMap((isa) =>
    PRECISIONS.flatMap((precision) =>
      [
        { name: 'ragged', queries: 5, keys: 131, headDim: 24, options: {} },
        {
          name: 'causal',
          queries: 9,
          keys: 140,
          headDim: 40,
          options: { isCausal: true, causalAlignment: 'bottom-right' },
        },
        { name: 'softcap', queries: 4, keys: 33, headDim: 8, options: { softcap: 3 } },
        { name: 'window', queries: 12, keys: 30, headDim: 16, options: { windowSize: [4, 2] } },
      ].map((shape) => ({ isa, precision, ...shape })),
    ),
  );
  it.each(float)('$isa $precision $name', ({ isa, precision, queries, keys, headDim, options }) => {
    const plan = judgeAttention(
      {
        query: tensor([2, 2, queries, headDim], 1),
        key: tensor([2, 1, keys, headDim], 2),
        value: tensor([2, 1, keys, 32], 3),
      },
      { ...options, precision, returnLse: true },
    );
    const twin = int8Attention(plan);
    const { out, lse } = createCpuBackend({ isa }).attentionSync(plan);
    expect(unequalBits(out, twin.out)).toBe(0);
    expect(unequalBits(lse!, twin.lse)).toBe(0);
  });

  it.each(['bool', 'float32'] as const)('%s mask, float16 and NHD inputs', (type) => {
    const noise = randomFloats(6 * 50, 4);
    const data =
      type === 'bool' ? Uint8Array.from(noise, (x) => (x > 0 ? 1 : 0)) : noise.map((x) => (x < -0.5 ? -Infinity : x));
    data.fill(type === 'bool' ? 0 : -Infinity, 50, 100); // one query that may see nothing
    const bits = (dims: number[], seed: number) => ({
      type: 'bfloat16',
      dims,
      data: Uint16Array.from(tensor(dims, seed).data, (x) => new Uint32Array(Float32Array.of(x).buffer)[0]! >>> 16),
    });
    const plan = judgeAttention(
      { query: bits([1, 6, 2, 16], 1), key: bits([1, 50, 2, 16], 2), value: bits([1, 50, 2, 16], 3) },
      { tensorLayout: 'NHD', attnMask: { type, dims: [6, 50], data }, returnLse: true },
    );
    const { out, lse } = createCpuBackend().attentionSync(plan);
    const twin = int8Attention(plan);
    expect(unequalBits(out, twin.out)).toBe(0);
    expect(unequalBits(lse!, twin.lse)).toBe(0);
    expect(lse![1]).toBe(-Infinity);
  });

  it('varlen, with an empty sequence', () => {
    const cuSeqlensQ = Int32Array.of(0, 3, 3, 20);
    const cuSeqlensK = Int32Array.of(0, 140, 145, 160);
    const plan = judgeAttention(
      { query: tensor([20, 4, 16], 1), key: tensor([160, 2, 16], 2), value: tensor([160, 2, 16], 3) },
      { tensorLayout: 'NHD', cuSeqlensQ, cuSeqlensK, isCausal: true, returnLse: true },
    );
    const { out, lse } = createCpuBackend().attentionSync(plan);
    const twin = int8Attention(plan);
    expect(unequalBits(out, twin.out)).toBe(0);
    expect(unequalBits(lse!, twin.lse)).toBe(0);
  });

  it.each(isas)('%s pre-quantized, token-level and per-head value scales', (isa) => {
    const code = (dims: number[], seed: number) => ({
      type: 'int8',
      dims,
      data: randomCodes(
        dims.reduce((a, b) => a * b, 1),
        seed,
      ),
    });
    const scale = (dims: number[], seed: number) => ({
      type: 'float32',
      dims,
      data: randomScales(
        dims.reduce((a, b) => a * b, 1),
        seed,
      ),
    });
    for (const [vDims, channel, precision] of [
      [[1, 2, 150], true, 'full-int8'],
      [[1, 2, 150], false, 'full-int8'],
      [[1, 2], false, 'full-int8'],
      [[1, 2], false, 'paper-int8'],
    ] as const) {
      const plan = judgeQuantizedAttention(
        {
          q: code([1, 2, 5, 16], 1),
          k: code([1, 2, 150, 16], 2),
          v: code([1, 2, 150, 16], 3),
          qScale: scale([1, 2, 5], 4),
          kScale: scale([1, 2, 150], 5),
          vScale: scale([...vDims], 6),
          ...(channel ? { vChannelScale: scale([1, 2, 16], 7) } : {}),
        },
        { precision },
      );
      const { out } = createCpuBackend({ isa }).quantizedAttentionSync(plan);
      expect(unequalBits(out, int8Attention(plan).out)).toBe(0);
    }
  });

  const caches = isas.flatMap((isa) =>
    (['int8', 'int4', 'fp32'] as const).flatMap((type) =>
      [
        { tokens: 1, length: 70, headDim: 24, windowLeft: Infinity },
        { tokens: 3, length: 1100, headDim: 24, windowLeft: Infinity },
        { tokens: 2, length: 1200, headDim: 24, windowLeft: 60 },
        { tokens: 11, length: 140, headDim: 24, windowLeft: Infinity },
        // The decode kernels have ways of their own for head dimensions 64 and 128; 136 is one of 128 channels and a rest.
        { tokens: 1, length: 1157, headDim: 64, windowLeft: Infinity },
        { tokens: 2, length: 203, headDim: 64, windowLeft: 41 },
        { tokens: 1, length: 149, headDim: 128, windowLeft: Infinity },
        { tokens: 1, length: 131, headDim: 136, windowLeft: Infinity },
      ].map((shape) => ({ isa, type, ...shape })),
    ),
  );
  it.each(caches)('$isa $type cache, $tokens tokens of $length, headDim $headDim', (shape) => {
    const { isa, type, tokens, length, headDim, windowLeft } = shape;
    const [kvHeads, capacity, heads] = [2, length + 5, 4];
    const args = {
      query: randomFloats(tokens * heads * headDim, 1),
      tokens,
      heads,
      scale: 0.2, // no float32 number
      windowLeft,
      softcap: 0,
    };
    const view = { kvHeads, capacity, headDim, length };
    const count = kvHeads * capacity * headDim;
    const int4 = (seed: number) => packInt4(randomCodes(count, seed).map((x) => Math.trunc(x / 19)));
    const scales = { keyScales: randomScales(kvHeads * capacity, 4), valueScales: randomScales(kvHeads * capacity, 5) };
    scales.valueScales[3] = 2 ** -126; // as a zero row has
    scales.valueScales[4] = 0.3134362995624542; // its logarithm lies in the middle between two float32 numbers, to 2^-50
    const cache =
      type === 'fp32'
        ? { ...view, type, keys: randomFloats(count, 2), values: randomFloats(count, 3) }
        : type === 'int8'
          ? { ...view, type, keys: randomCodes(count, 2), values: randomCodes(count, 3), ...scales }
          : { ...view, type, keys: int4(2), values: int4(3), ...scales };
    const actual = createCpuBackend({ isa }).cacheAttentionSync({ ...args, cache });
    expect(unequalBits(actual, cacheAttention({ ...args, cache }))).toBe(0);
  });

  const paged = isas.flatMap((isa) =>
    (['int8', 'int4', 'fp32', 'fp16'] as const).flatMap((type) =>
      [
        { tokens: 1, length: 70, order: 'one behind the other' },
        { tokens: 3, length: 1100, order: 'anywhere' },
        { tokens: 12, length: 140, order: 'anywhere' },
        { tokens: 12, length: 130, order: 'one behind the other' },
      ].map((shape) => ({ isa, type, ...shape })),
    ),
  );
  it.each(paged)('$isa $type cache in pages that lie $order, $tokens tokens of $length', (shape) => {
    const { isa, type, tokens, length, order } = shape;
    const [kvHeads, heads, headDim, there] = [2, 4, 24, 24];
    const used = Math.ceil(length / 64);
    // Pages from the pool's end on; 7 and 24 have no common factor, so `anywhere` names none twice.
    const pages = Int32Array.from({ length: used }, (_, i) => (order === 'anywhere' ? (5 + 7 * i) % there : 3 + i));
    const capacity = there * 64;
    const count = kvHeads * capacity * headDim;
    const scales = { keyScales: randomScales(kvHeads * capacity, 4), valueScales: randomScales(kvHeads * capacity, 5) };
    const int4 = (seed: number) => packInt4(randomCodes(count, seed).map((x) => Math.trunc(x / 19)));
    const halves = (seed: number) => fromFloat32(randomFloats(count, seed), 'float16');
    const view = { kvHeads, capacity, headDim, length, pages };
    const cache: KvCacheView =
      type === 'fp32'
        ? { ...view, type, keys: randomFloats(count, 2), values: randomFloats(count, 3) }
        : type === 'fp16'
          ? { ...view, type, keys: halves(2), values: halves(3) }
          : type === 'int8'
            ? { ...view, type, keys: randomCodes(count, 2), values: randomCodes(count, 3), ...scales }
            : { ...view, type, keys: int4(2), values: int4(3), ...scales };
    const query = randomFloats(tokens * heads * headDim, 1);
    const args = { query, tokens, heads, cache, scale: 0.2, windowLeft: Infinity, softcap: 0 };
    const expected = cacheAttention(args);
    expect(unequalBits(createCpuBackend({ isa }).cacheAttentionSync(args), expected)).toBe(0);
    if (isa !== isas[0]) return;
    expect(unequalBits(createPortableBackend().cacheAttentionSync(args), expected)).toBe(0);
    const swapped = { ...cache, pages: pages.slice().reverse() };
    if (used > 1) expect(unequalBits(cacheAttention({ ...args, cache: swapped }), expected)).toBeGreaterThan(0);
    for (const wrong of [pages.subarray(0, used - 1), pages.map((page, i) => (i === used - 1 ? there : page))]) {
      for (const backend of [createCpuBackend({ isa }), createPortableBackend()]) {
        expect(() => backend.cacheAttentionSync({ ...args, cache: { ...cache, pages: wrong } })).toThrow(
          expect.objectContaining({ code: 'ERR_SHAPE' }),
        );
      }
    }
  });

  it.each(isas)('%s linear layers: INT8 as the portable backend to the bit, fp32 within its rounding', (isa) => {
    for (const [rows, cols, tokens] of [
      [3, 5, 1],
      [16, 64, 4],
      [37, 100, 6],
      [65, 64, 16],
      [130, 192, 33],
      [64, 128, 50],
      [1000, 576, 17], // more columns, and rows, than are multiplied at once
    ] as const) {
      const bias = randomFloats(rows, 9);
      const codes = randomCodes(rows * cols, 1);
      const int8 = { type: 'int8', rows, cols, codes, scales: randomScales(rows, 2), bias } as const;
      const fp32 = { type: 'fp32', rows, cols, weights: randomFloats(rows * cols, 1) } as const;
      const input = randomFloats(tokens * cols, 3);
      const run = (weights: LinearWeights) => {
        const layers = [createCpuBackend({ isa }), createPortableBackend()].map((b) => b.createLinear(weights));
        const outs = layers.map((layer) => layer.forwardSync(input, tokens));
        for (const layer of layers) layer.dispose();
        return outs as [Float32Array, Float32Array];
      };
      expect(unequalBits(...run(int8))).toBe(0);
      const [native, portable] = run(fp32);
      expect(relativeL2(native, portable)).toBeLessThan(1e-6); // both add up in float32 or better: a few units of 2^-24
    }
  });

  it.each(isas)('%s linear layers of INT4 weights: docs/arithmetic.md to the bit', (isa) => {
    for (const group of [32, 64, 128] as const) {
      for (const [rows, groups, tokens] of [
        [1, 1, 1],
        [70, 3, 3],
        [130, 2, 9],
      ] as const) {
        const cols = groups * group;
        const codes = randomCodes(rows * cols, group).map((x) => Math.max(-8, Math.min(7, Math.trunc(x / 14))));
        const scales = randomScales(rows * groups, 2);
        const bias = randomFloats(rows, 3);
        const input = randomFloats(tokens * cols, 4);
        const layer = createCpuBackend({ isa }).createLinear({
          type: 'int4',
          rows,
          cols,
          packed: packInt4(codes),
          scales,
          group,
          bias,
        });
        const held = randomFloats(tokens * rows, 5);
        const added = held.slice();
        const out = layer.forwardSync(input, tokens);
        layer.fusedSync!(input, tokens, added, { accumulate: true });
        layer.dispose();
        const x = quantizePerTokenInt8(input, group); // each group of a token is a row of its own
        const wanted = new Float32Array(tokens * rows);
        for (let token = 0; token < tokens; token++) {
          for (let row = 0; row < rows; row++) {
            let total = 0;
            for (let g = 0; g < groups; g++) {
              let sum = 0;
              for (let i = g * group; i < (g + 1) * group; i++)
                sum += x.values[token * cols + i]! * codes[row * cols + i]!;
              const scale = Math.fround(x.scales[token * groups + g]! * scales[row * groups + g]!);
              total = Math.fround(total + Math.fround(sum * scale));
            }
            wanted[token * rows + row] = total + bias[row]!;
          }
        }
        expect(unequalBits(out, wanted), `group ${group}, ${rows} rows`).toBe(0);
        expect(
          unequalBits(
            added,
            wanted.map((y, i) => held[i]! + y),
          ),
        ).toBe(0);
      }
    }
  });

  it('linear layers take the norm, SwiGLU and the residual along: the same bits on every instruction set', () => {
    const [rows, cols, tokens] = [70, 37, 6];
    const input = randomFloats(tokens * cols, 3);
    const gain = randomFloats(cols, 4);
    const steps = [
      { norm: { gain, epsilon: 1e-5 }, swiglu: true },
      { norm: { gain, epsilon: 1e-5 } },
      { accumulate: true },
    ];
    const bfloat16 = randomFloats(rows * cols, 1).map((x) => Math.round(x * 64) / 64);
    const layers: LinearWeights[] = [
      { type: 'int8', rows, cols, codes: randomCodes(rows * cols, 1), scales: randomScales(rows, 2) },
      { type: 'fp32', rows, cols, weights: randomFloats(rows * cols, 1) },
      { type: 'fp32', rows, cols, weights: bfloat16 },
    ];
    // Norm and SwiGLU in float64, rounded where the rows are stored.
    const normed = Float32Array.from(input, (x, i) => {
      const row = input.subarray(Math.floor(i / cols) * cols, (Math.floor(i / cols) + 1) * cols);
      const mean = row.reduce((sum, y) => sum + y * y, 0) / cols;
      return gain[i % cols]! * (x / Math.sqrt(mean + 1e-5));
    });
    for (const weights of layers) {
      const plain = createCpuBackend().createLinear(weights);
      for (const step of steps) {
        const first = randomFloats(tokens * (step.swiglu ? rows / 2 : rows), 5);
        const linear = plain.forwardSync(step.norm ? normed : input, tokens);
        const expected = first.map((held, i) => {
          if (!step.swiglu) return step.accumulate ? held + linear[i]! : linear[i]!;
          const at = Math.floor(i / (rows / 2)) * rows + (i % (rows / 2));
          return (linear[at]! / (1 + Math.exp(-linear[at]!))) * linear[at + rows / 2]!;
        });
        const outs = isas.map((isa) => {
          const out = first.slice();
          const layer = createCpuBackend({ isa }).createLinear(weights);
          layer.fusedSync!(input, tokens, out, step);
          layer.dispose();
          return out;
        });
        for (const out of outs) expect(unequalBits(out, outs[0]!)).toBe(0);
        // A last place of the norm may move an INT8 code by one step.
        expect(relativeL2(outs[0]!, expected)).toBeLessThan(weights.type === 'int8' && step.norm ? 2e-3 : 1e-6);
      }
      plain.dispose();
    }
  });
});

describe.skipIf(isas.length === 0)('native backend against float64 softmax', () => {
  const cases = (['full-int8', 'half-int8', 'int4-qk'] as const).flatMap((precision) =>
    [32, 64, 128].flatMap((headDim) => [false, true].map((isCausal) => ({ precision, headDim, isCausal }))),
  );
  // Every rounding is noise of a known size, which predictRelativeRms adds up for these very inputs. The floor counts:
  // a path that forgot to quantize would pass any ceiling.
  it.each(cases)('$precision headDim $headDim causal $isCausal: the error that its roundings predict', (shape) => {
    const { precision, headDim, isCausal } = shape;
    const inputs = makeInputs('normal', { heads: 1, queries: 96, keys: 160, headDim }, 3);
    const plan = judgeAttention(inputs, { precision, isCausal, causalAlignment: 'bottom-right' });
    const measured = relativeL2(createCpuBackend().attentionSync(plan).out, softmaxAttention(plan).out);
    const ratio = measured / predictRelativeRms(plan);
    expect(ratio).toBeGreaterThan(0.5);
    expect(ratio).toBeLessThan(1.25);
  });

  it('fp32 is float32 arithmetic', () => {
    const inputs = makeInputs('normal', { heads: 1, queries: 64, keys: 200, headDim: 64 }, 4);
    const plan = judgeAttention(inputs, { precision: 'fp32' });
    const error = relativeL2(createCpuBackend().attentionSync(plan).out, softmaxAttention(plan).out);
    expect(error).toBeLessThan(1e-5); // the exponential's 2.8e-6 and a few float32 roundings
    expect(error).toBeGreaterThan(1e-8);
  });
});
