import {
  type AttentionPlan,
  type FloatType,
  fromFloat32,
  judgeAttention,
  judgeQuantizedAttention,
  type Precision,
  toFloat32,
} from '@int-flash/ops';
import { quantizePerTokenInt8, quantizeTokenLevelV, smoothK } from '@int-flash/quant';
import { cacheAttention, int8Attention, makeInputs, relativeL2, softmaxAttention } from '@int-flash/reference';
import { describe, expect, it } from 'vitest';
import { createCudaBackend } from '../src/cuda-backend.js';
import { cudaStatus } from '../src/cuda-status.js';
import { FLT_MAX } from './ceilings.js';
import { expectSameBits } from './same-bits.js';

// REQUIRE_CUDA=1 turns this skip into a failure (vitest.setup.ts).
const available = cudaStatus().available;
// Hopper's kernels group keys under shared scales; the twin does the portable kernels' arithmetic.
const backend = available ? createCudaBackend({ kernel: 'portable' }) : undefined!;
const precisions: Precision[] = ['full-int8', 'paper-int8', 'half-int8', 'int4-qk', 'fp32'];

/** fp32 has the twin's bits. One code of P flipped by the faster exp2 moves a row by at most channel · w / l <= max|v| / 127 / l; l >= 1. */
function expectSameArithmetic(plan: AttentionPlan) {
  const { out, lse } = backend.attentionSync(plan);
  const twin = int8Attention(plan);
  let largest = 0;
  for (const v of plan.value.type === 'float32' ? (plan.value.data as Float32Array) : [6])
    largest = Math.max(largest, Math.abs(v));
  // half-int8 rounds P to float16 as well: 2^-11 of each weight.
  const tolerance =
    plan.precision === 'fp32' ? 0 : plan.precision === 'half-int8' ? 1.5e-3 * largest : (largest / 127) * 1.5;
  let worst = 0;
  for (let i = 0; i < out.length; i++) worst = Math.max(worst, Math.abs(out[i]! - twin.out[i]!));
  expect(worst, 'largest difference from the twin').toBeLessThanOrEqual(tolerance);
  // Flips are rare: over all rows the two agree far better than one flip in each would allow.
  if (out.some((x) => x !== 0)) expect(relativeL2(out, twin.out)).toBeLessThan(1e-3);
  if (plan.returnLse) {
    for (let i = 0; i < lse!.length; i++) {
      const expected = twin.lse[i]!;
      if (Number.isFinite(expected))
        expect(Math.abs(lse![i]! - expected)).toBeLessThan(1e-4 + Math.abs(expected) * 1e-5);
      else expect(lse![i]).toBe(expected);
    }
  }
}

/** The forward kernel is the same for quant's codes and for the device's own, so equal output bits mean equal codes and scales. */
function expectQuantsCodes(
  inputs: ReturnType<typeof makeInputs>,
  { smooth, headDim, type, keys }: { smooth: boolean; headDim: number; type: FloatType; keys: number },
) {
  const narrow = (data: Float32Array) => (type === 'float32' ? data : fromFloat32(data, type));
  const given = (data: Float32Array) => (type === 'float32' ? data : toFloat32(narrow(data), type));
  const { query, key, value } = inputs;
  const k = smooth ? smoothK(given(key.data), headDim).values : given(key.data);
  const [q8, k8, v8] = [
    quantizePerTokenInt8(given(query.data), headDim),
    quantizePerTokenInt8(k, headDim),
    quantizeTokenLevelV(given(value.data), headDim),
  ];
  const tensor = (type: string, data: unknown, dims: readonly number[]) => ({ type, data, dims });
  const codes = judgeQuantizedAttention({
    q: tensor('int8', q8.values, query.dims),
    k: tensor('int8', k8.values, key.dims),
    v: tensor('int8', v8.values, value.dims),
    qScale: tensor('float32', q8.scales, [1, 1, query.dims[2]!]),
    kScale: tensor('float32', k8.scales, [1, 1, keys]),
    vScale: tensor('float32', v8.tokenWeights, [1, 1, keys]),
    vChannelScale: tensor('float32', v8.channelScales, [1, 1, headDim]),
  });
  const floats = [query, key, value].map((t) => ({ ...t, type, data: narrow(t.data) }));
  const plan = judgeAttention({ query: floats[0], key: floats[1], value: floats[2] }, { smoothK: smooth });
  const own = backend.attentionSync(plan);
  expectSameBits(own.out, backend.quantizedAttentionSync(codes).out);
  if (own.out.some((x) => x !== 0)) expect(relativeL2(own.out, int8Attention(codes).out)).toBeLessThan(1e-3);
}

const features: [string, Parameters<typeof makeInputs>[1], object][] = [
  ['one key', { heads: 1, queries: 3, keys: 1, headDim: 64 }, {}],
  ['ragged tail', { heads: 2, queries: 65, keys: 129, headDim: 64 }, {}],
  ['three tiles', { heads: 2, queries: 130, keys: 384, headDim: 128 }, {}],
  ['GQA, causal', { batch: 2, heads: 4, kvHeads: 2, queries: 100, keys: 100, headDim: 80 }, { isCausal: true }],
  [
    'MQA, bottom-right',
    { heads: 4, kvHeads: 1, queries: 70, keys: 300, headDim: 96 },
    { isCausal: true, causalAlignment: 'bottom-right' },
  ],
  [
    'rows without keys',
    { heads: 2, queries: 200, keys: 60, headDim: 32 },
    { isCausal: true, causalAlignment: 'bottom-right' },
  ],
  ['window', { heads: 2, queries: 300, keys: 300, headDim: 40 }, { windowSize: [50, 20] }],
  ['softcap', { heads: 2, queries: 64, keys: 200, headDim: 64 }, { softcap: 5 }],
  ['head dim 8', { heads: 2, queries: 40, keys: 140, headDim: 8 }, {}],
  [
    'head dim 256',
    { heads: 2, queries: 40, keys: 260, headDim: 256 },
    { isCausal: true, causalAlignment: 'bottom-right' },
  ],
  ['values narrower', { heads: 2, queries: 50, keys: 150, headDim: 192, headDimV: 128 }, {}],
  ['values wider', { heads: 2, queries: 50, keys: 150, headDim: 24, headDimV: 200 }, {}],
];

describe.skipIf(!available)('the CUDA backend', () => {
  describe.each(precisions)('%s does the twin’s arithmetic', (precision) => {
    it.each(features)('%s', (_, shape, options) => {
      expectSameArithmetic(judgeAttention(makeInputs('normal', shape, 7), { precision, returnLse: true, ...options }));
    });
    it.each(['sharp', 'kbias', 'vout', 'sink', 'sinkall'] as const)('%s inputs', (family) => {
      const shape = { heads: 2, queries: 48, keys: 700, headDim: 64 };
      expectSameArithmetic(judgeAttention(makeInputs(family, shape, 3), { precision, returnLse: true }));
    });
    it.each(['float16', 'bfloat16'] as const)('%s inputs', (type) => {
      const inputs = makeInputs('normal', { heads: 2, queries: 33, keys: 190, headDim: 72 }, 5);
      const narrow = Object.fromEntries(
        Object.entries(inputs).map(([name, t]) => [name, { ...t, type, data: fromFloat32(t.data, type) }]),
      );
      expectSameArithmetic(judgeAttention(narrow, { precision, returnLse: true }));
    });
    it('NHD and strides that skip', () => {
      const { query, key, value } = makeInputs('normal', { heads: 3, queries: 37, keys: 150, headDim: 64 }, 9);
      // [1, 3, n, 64] read as NHD views [1, n, 3, 64]
      const nhd = (t: typeof query) => ({ ...t, dims: [1, t.dims[2]!, 3, 64], strides: [0, 64, t.dims[2]! * 64, 1] });
      expectSameArithmetic(
        judgeAttention(
          { query: nhd(query), key: nhd(key), value: nhd(value) },
          { precision, tensorLayout: 'NHD', returnLse: true },
        ),
      );
    });
    it('varlen with an empty sequence', () => {
      const { query, key, value } = makeInputs('normal', { heads: 2, queries: 180, keys: 333, headDim: 64 }, 11);
      const flat = (t: typeof query) => ({ ...t, dims: [t.dims[2]!, 2, 64] });
      const options = {
        precision,
        tensorLayout: 'NHD',
        isCausal: true,
        causalAlignment: 'bottom-right',
        returnLse: true,
      };
      const lengths = { cuSeqlensQ: [0, 1, 1, 100, 180], cuSeqlensK: [0, 130, 140, 140, 333] };
      expectSameArithmetic(
        judgeAttention({ query: flat(query), key: flat(key), value: flat(value) }, { ...options, ...lengths }),
      );
    });
    it.each(['bool', 'float32'] as const)('%s mask', (type) => {
      const inputs = makeInputs('normal', { batch: 2, heads: 2, queries: 45, keys: 170, headDim: 64 }, 13);
      const data = type === 'bool' ? new Uint8Array(45 * 170) : new Float32Array(45 * 170);
      for (let i = 0; i < data.length; i++)
        data[i] = type === 'bool' ? Number(i % 3 !== 0) : i % 5 === 0 ? -Infinity : (i % 7) / 3;
      data.fill(type === 'bool' ? 0 : -Infinity, 0, 170); // the first query sees nothing
      expectSameArithmetic(
        judgeAttention(inputs, { precision, attnMask: { type, dims: [45, 170], data }, returnLse: true }),
      );
    });
  });

  it('keeps a finite mask of -FLT_MAX finite', () => {
    const inputs = makeInputs('normal', { heads: 1, queries: 2, keys: 130, headDim: 64 }, 17);
    const data = new Float32Array(2 * 130).fill(-FLT_MAX);
    expectSameArithmetic(judgeAttention(inputs, { attnMask: { type: 'float32', dims: [2, 130], data } }));
  });

  it.each([
    [false, 128, 'float32', 500],
    [true, 128, 'float32', 500],
    [true, 64, 'float32', 257],
    [true, 256, 'float32', 2300],
    [true, 40, 'float32', 129],
    [true, 8, 'bfloat16', 1],
    [true, 64, 'bfloat16', 4000],
    [true, 128, 'float16', 640],
    [false, 128, 'bfloat16', 127],
    [true, 256, 'float16', 300],
    [true, 200, 'bfloat16', 300],
  ] as const)('makes quant’s codes: smooth-K %s, head dim %i, %s, %i keys', (smooth, headDim, type, keys) => {
    const inputs = makeInputs('kbias', { heads: 1, queries: 150, keys, headDim }, 19);
    // Rows of every size, down to the smallest scale and to zeros, so that each way of dividing is taken.
    for (const { data } of Object.values(inputs))
      for (let i = 0; i < data.length; i++) {
        const row = Math.floor(i / headDim) % 16;
        data[i]! *= type === 'float32' && row > 11 ? [0, 2 ** -62, 2 ** -110, 2 ** -140][row - 12]! : 1;
      }
    expectQuantsCodes(inputs, { smooth, headDim, type, keys });
  });

  // From any element of the caller's memory: what is copied begins there. On the device rows are aligned; strided-inputs.gpu.test.ts has others.
  it.each([0, 3])(
    'makes quant’s codes of values as small as float32 has them, in a host array from element %i',
    (skip) => {
      const [keys, headDim] = [200, 64];
      const { query, key, value } = makeInputs('vout', { heads: 1, queries: 150, keys, headDim }, 37);
      const moved = (tensor: typeof query) => {
        const data = new Float32Array(tensor.data.length + skip).fill(Number.NaN).subarray(skip);
        for (let i = 0; i < data.length; i++) data[i] = tensor.data[i]! * 2 ** -120;
        return { ...tensor, data };
      };
      const inputs = { query: moved(query), key: moved(key), value: moved(value) };
      expectQuantsCodes(inputs, { smooth: true, headDim, type: 'float32', keys });
    },
  );

  it.each(['full-int8', 'half-int8', 'paper-int8', 'fp32'] as const)(
    'refuses scores beyond 2^100 a head at a time, %s',
    (precision) => {
      const inputs = () => makeInputs('normal', { heads: 2, queries: 70, keys: 140, headDim: 64 }, 41);
      const scaled = (name: 'query' | 'key' | 'value', head: number, factor: number, from = inputs()) => {
        const { data } = from[name];
        const half = data.length / 2;
        for (let i = head * half; i < (head + 1) * half; i++) data[i]! *= factor;
        return from;
      };
      const run = (from: ReturnType<typeof inputs>) =>
        backend.attentionSync(judgeAttention(from, { precision, smoothK: false }));
      const overflow = (text: string) =>
        expect.objectContaining({ code: 'ERR_OVERFLOW', message: expect.stringContaining(text) });
      expect(() => run(scaled('query', 0, 2 ** 60, scaled('key', 0, 2 ** 60)))).toThrow(overflow('scores'));
      expect(() => run(scaled('query', 1, 2 ** 110))).toThrow(overflow('scores'));
      expect(() => run(scaled('key', 1, 2 ** 101))).toThrow(overflow('key'));
      expect(() => run(scaled('value', 1, 2 ** 101))).toThrow(overflow('value'));
      // Large queries and large keys in different heads do no harm.
      expect(run(scaled('query', 0, 2 ** 60, scaled('key', 1, 2 ** 60))).out.every(Number.isFinite)).toBe(true);
      if (precision === 'half-int8') expect(() => run(scaled('value', 0, 65504))).toThrow(overflow('65504'));
    },
  );

  it.each(['normal', 'sharp', 'kbias', 'vout', 'sink', 'sinkall'] as const)(
    'loses nothing against the twin’s accuracy on %s inputs',
    (family) => {
      const inputs = makeInputs(family, { heads: 2, queries: 16, keys: 4096, headDim: 128 }, 23);
      const plan = (precision: Precision) => judgeAttention(inputs, { precision });
      const exact = softmaxAttention(plan('fp32')).out;
      for (const precision of ['full-int8', 'half-int8', 'paper-int8'] as const) {
        const meant = relativeL2(int8Attention(plan(precision)).out, exact);
        // 2%: a faster exp2 and, in half-int8, P in float16, against errors of a percent
        expect(Math.abs(relativeL2(backend.attentionSync(plan(precision)).out, exact) / meant - 1)).toBeLessThan(0.02);
      }
      expect(relativeL2(backend.attentionSync(plan('fp32')).out, exact)).toBeLessThan(4e-6);
    },
  );

  it.each([
    ['fp32', 1],
    ['fp32', 20],
    ['int8', 1],
    ['int8', 20],
  ] as const)('attends a %s cache with %i tokens', (type, tokens) => {
    const [kvHeads, heads, headDim, capacity, length] = [2, 4, 64, 400, 290];
    const { query, key, value } = makeInputs(
      'normal',
      { heads, kvHeads, queries: tokens, keys: capacity, headDim },
      29,
    );
    const q = new Float32Array(query.data); // [tokens, heads, headDim] of any numbers
    const codes = (data: Float32Array) => quantizePerTokenInt8(data, headDim);
    const [k8, v8] = [codes(key.data), codes(value.data)];
    const cache =
      type === 'fp32'
        ? { type, kvHeads, capacity, headDim, length, keys: key.data, values: value.data }
        : {
            type,
            kvHeads,
            capacity,
            headDim,
            length,
            keys: k8.values,
            values: v8.values,
            keyScales: k8.scales,
            valueScales: v8.scales,
          };
    const args = { query: q, tokens, heads, cache, scale: 0.125, windowLeft: 200, softcap: 0 };
    expect(relativeL2(backend.cacheAttentionSync(args), cacheAttention(args))).toBeLessThan(
      type === 'fp32' ? 1e-30 : 1e-3, // the same bits, or codes of P that differ by one
    );
  });

  it('refuses what is not finite, and works afterwards', async () => {
    const inputs = makeInputs('normal', { heads: 1, queries: 8, keys: 8, headDim: 64 });
    for (const name of ['query', 'key', 'value'] as const) {
      for (const bad of [Number.NaN, Infinity]) {
        const data = inputs[name].data.slice();
        data[70] = bad;
        const plan = judgeAttention({ ...inputs, [name]: { ...inputs[name], data } });
        await expect(backend.attention(plan)).rejects.toMatchObject({
          code: 'ERR_NONFINITE',
          message: expect.stringContaining(name),
        });
      }
    }
    expect((await backend.attention(judgeAttention(inputs))).out.some((x) => x !== 0)).toBe(true);
    expect(backend.liveBytes()).toBe(0);
  });

  it('copies its inputs before the promise, and honours the signal', async () => {
    const inputs = makeInputs('normal', { heads: 2, queries: 200, keys: 200, headDim: 64 });
    const expected = backend.attentionSync(judgeAttention(inputs)).out;
    const promise = backend.attention(judgeAttention(inputs));
    for (const tensor of Object.values(inputs)) tensor.data.fill(Number.NaN);
    expectSameBits((await promise).out, expected);
    const plan = judgeAttention(makeInputs('normal', { heads: 2, queries: 200, keys: 200, headDim: 64 }));
    await expect(backend.attention(plan, AbortSignal.abort(new Error('enough')))).rejects.toThrow('enough');
    const controller = new AbortController();
    // fp32 is slow enough (some 10 ms each) for the signal to overtake the queue
    const long = judgeAttention(makeInputs('normal', { heads: 8, queries: 2000, keys: 2000, headDim: 64 }), {
      precision: 'fp32',
    });
    const running = Array.from({ length: 3 }, () => backend.attention(long, controller.signal));
    controller.abort(new Error('stop'));
    const settled = await Promise.allSettled(running);
    for (const result of settled) if (result.status === 'rejected') expect(result.reason.message).toBe('stop');
    expect(settled.at(-1)!.status).toBe('rejected');
  });
});
