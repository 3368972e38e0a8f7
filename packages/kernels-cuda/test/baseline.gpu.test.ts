import { judgeAttention } from '@int-flash/ops';
import { flashDAttention, makeInputs, relativeL2, seededUniform } from '@int-flash/reference';
import { describe, expect, it } from 'vitest';
import type { CudaDevice } from '../src/cuda-device.js';
import { cudaStatus } from '../src/cuda-status.js';
import type { CudaAttentionOptions, CudaAttentionResult } from '../src/device-attention.js';
import { BASELINES, type Baseline } from '../src/native-request.js';
import { BASELINE_CEILINGS, baselineLseCeiling, FLT_MAX } from './ceilings.js';
import { uploadInputs, useGpuDevice } from './gpu-device.js';

const cases: [string, Parameters<typeof makeInputs>[1], object][] = [
  ['one key', { heads: 1, queries: 3, keys: 1, headDim: 64 }, {}],
  ['ragged tiles', { batch: 2, heads: 4, kvHeads: 2, queries: 130, keys: 333, headDim: 128 }, {}],
  ['causal', { heads: 2, queries: 200, keys: 200, headDim: 80 }, { isCausal: true }],
  [
    'rows without keys',
    { heads: 2, queries: 200, keys: 60, headDim: 32 },
    { isCausal: true, causalAlignment: 'bottom-right' },
  ],
  ['window', { heads: 2, queries: 300, keys: 300, headDim: 40 }, { windowSize: [50, 20] }],
  ['head dim 256', { heads: 2, queries: 40, keys: 260, headDim: 256 }, {}],
  ['values narrower', { heads: 2, queries: 50, keys: 150, headDim: 192, headDimV: 128 }, {}],
];

const [BATCH, HEADS, KV_HEADS, QUERIES, KEYS] = [2, 4, 2, 220, 200];

/**
 * A quarter of the keys is excluded, and as a run of 64 the first of some queries, the second of others; queries 3, 19, 35, … see nothing. The rest of a
 * float mask is in [-5, 5), or 300 higher. `dims`: [batch, heads, queries, keys], 1 where they share.
 */
function makeMask(type: 'bool' | 'float32', dims: readonly number[]) {
  const [batch, heads, queries, keys] = dims as [number, number, number, number];
  const uniform = seededUniform(59);
  const data = new (type === 'bool' ? Uint8Array : Float32Array)(batch * heads * queries * keys);
  for (let i = 0; i < data.length; i++) {
    const [key, query, entry] = [i % keys, Math.floor(i / keys) % queries, Math.floor(i / (keys * queries * heads))];
    const [draw, run] = [uniform(), Math.floor(key / 64)];
    const isExcluded =
      draw < 0.25 || query % 16 === 3 || (run === 0 && query % 5 === 2) || (run === 1 && (query + entry) % 2 === 1);
    if (type === 'bool') data[i] = isExcluded ? 0 : 1;
    else data[i] = isExcluded ? -Infinity : 10 * uniform() - 5 + (query % 7 === 5 ? 300 : 0);
  }
  return { type, dims, data };
}

const MASK_DIMS = [
  [1, 1, QUERIES, KEYS],
  [BATCH, HEADS, QUERIES, KEYS],
  [1, HEADS, QUERIES, KEYS],
  [BATCH, 1, 1, KEYS],
  [BATCH, 1, QUERIES, 1],
] as const;
/** With 220 queries of 200 keys, bottom-right leaves the first 20 without keys, and the window of 10 the last 10. */
const cappedOrMasked: { options: CudaAttentionOptions; mask?: ReturnType<typeof makeMask> }[] = [
  { options: { softcap: 2 } },
  { options: { softcap: 2, isCausal: true, causalAlignment: 'bottom-right' } },
  { options: { softcap: 2, windowSize: [10, 4] } },
  ...(['bool', 'float32'] as const).flatMap((type) => [
    ...MASK_DIMS.map((dims) => ({ options: {}, mask: makeMask(type, dims) })),
    { options: { windowSize: [10, 4] }, mask: makeMask(type, MASK_DIMS[0]) },
    {
      options: { softcap: 2, windowSize: [-1, 0], causalAlignment: 'bottom-right' as const },
      mask: makeMask(type, MASK_DIMS[1]),
    },
  ]),
];

describe.skipIf(!cudaStatus().available)('baselineAttention', () => {
  let device: CudaDevice;
  useGpuDevice((opened) => {
    device = opened;
  });

  /** What is wrong with `got`, in words. */
  async function faults(baseline: Baseline, got: CudaAttentionResult, exact: CudaAttentionResult) {
    const [out, lse] = [await device.compare(got.out, exact.out), await device.compare(got.lse!, exact.lse!)];
    const isGood = out.relativeL2 <= BASELINE_CEILINGS[baseline] && lse.worst <= baselineLseCeiling(baseline);
    if (isGood && out.odd + lse.odd === 0) return [];
    return [`L2 ${out.relativeL2.toFixed(5)} lse ${lse.worst.toFixed(5)} odd ${out.odd}/${lse.odd}`];
  }
  const disposeResults = (...results: CudaAttentionResult[]) => {
    for (const { out, lse } of results) for (const tensor of [out, lse]) tensor?.dispose();
  };

  describe.each(BASELINES)('%s', (baseline) => {
    it.each(cases)('%s', async (_, shape, options) => {
      const inputs = makeInputs('normal', shape, 43);
      const tensors = await uploadInputs(device, inputs);
      const { out, lse } = await device.baselineAttention(tensors, baseline, { ...options, returnLse: true });
      const expected = flashDAttention(judgeAttention(inputs, { ...options, returnLse: true }));
      const got = (await out.download()).data as Float32Array;
      const gotLse = (await lse!.download()).data as Float32Array;
      if (expected.out.some((x) => x !== 0))
        expect(relativeL2(got, expected.out)).toBeLessThan(BASELINE_CEILINGS[baseline]);
      else expect(got.every((x) => x === 0)).toBe(true);
      for (const [i, x] of gotLse.entries()) {
        if (Number.isFinite(expected.lse[i]!))
          expect(Math.abs(x - expected.lse[i]!)).toBeLessThan(baselineLseCeiling(baseline));
        else expect(x).toBe(-Infinity);
      }
      for (const tensor of [...Object.values(tensors), out, lse!]) tensor.dispose();
    });

    it.each([40, 64, 128, 256])('softcap and masks, head dim %i', async (headDim) => {
      const shape = { batch: BATCH, heads: HEADS, kvHeads: KV_HEADS, queries: QUERIES, keys: KEYS, headDim };
      const tensors = await uploadInputs(device, makeInputs('normal', shape, 53));
      const failures: string[] = [];
      for (const { options, mask } of cappedOrMasked) {
        const attnMask = mask && (await device.upload(mask));
        const given = { ...options, ...(attnMask && { attnMask }), returnLse: true };
        const exact = await device.exactAttention(tensors, given);
        const got = await device.baselineAttention(tensors, baseline, given);
        const name = `${JSON.stringify(options)} ${mask?.type} ${mask?.dims}`;
        failures.push(...(await faults(baseline, got, exact)).map((fault) => `${name}: ${fault}`));
        if (mask) {
          const fromHost = await device.baselineAttention(tensors, baseline, { ...given, attnMask: mask });
          const { worst, odd } = await device.compare(fromHost.out, got.out);
          if (worst + odd > 0) failures.push(`${name}: other bits from host memory`);
          disposeResults(fromHost);
        }
        disposeResults(got, exact);
        attnMask?.dispose();
      }
      for (const tensor of Object.values(tensors)) tensor.dispose();
      expect(failures).toEqual([]);
    });

    it('softcap, packed sequences', async () => {
      const inputs = makeInputs(
        'normal',
        { heads: HEADS, kvHeads: KV_HEADS, queries: 300, keys: 300, headDim: 72 },
        57,
      );
      const flat = ({ type, dims, data }: typeof inputs.query) => ({ type, dims: [300, dims[1]!, 72], data });
      const tensors = await uploadInputs(device, {
        query: flat(inputs.query),
        key: flat(inputs.key),
        value: flat(inputs.value),
      });
      const given: CudaAttentionOptions = {
        softcap: 2,
        tensorLayout: 'NHD',
        cuSeqlensQ: [0, 1, 1, 66, 300],
        cuSeqlensK: [0, 129, 130, 130, 300],
        isCausal: true,
        causalAlignment: 'bottom-right',
        returnLse: true,
      };
      const exact = await device.exactAttention(tensors, given);
      const got = await device.baselineAttention(tensors, baseline, given);
      expect(await faults(baseline, got, exact)).toEqual([]);
      disposeResults(got, exact);
      for (const tensor of Object.values(tensors)) tensor.dispose();
    });

    it('rows that a mask leaves nothing, nothing in some tiles, or nothing but -FLT_MAX', async () => {
      const [heads, queries, headDim] = [2, 20, 64];
      const tensors = await uploadInputs(device, makeInputs('normal', { heads, queries, keys: KEYS, headDim }, 61));
      // Four queries each: nothing, only -FLT_MAX, then keys from 128 on, those after -FLT_MAX, and keys below 128.
      const starts = [-Infinity, -FLT_MAX, -Infinity, -FLT_MAX, 0];
      const ends = [-Infinity, -FLT_MAX, 0, 0, -Infinity];
      const data = Float32Array.from({ length: queries * KEYS }, (_, i) => {
        const group = Math.floor(i / KEYS / 4);
        return (i % KEYS < 128 ? starts : ends)[group]!;
      });
      const given = { attnMask: { type: 'float32', dims: [queries, KEYS], data }, returnLse: true };
      const exact = await device.exactAttention(tensors, given);
      const got = await device.baselineAttention(tensors, baseline, given);
      const read = async ({ out, lse }: CudaAttentionResult) => {
        const [outs, lses] = [await out.download(), await lse!.download()];
        return { out: outs.data as Float32Array, lse: lses.data as Float32Array };
      };
      const [ours, expected] = [await read(got), await read(exact)];
      for (const [row, lse] of expected.lse.entries()) {
        const part = ours.out.subarray(row * headDim, (row + 1) * headDim);
        if (row % queries < 4) {
          expect(ours.lse[row]).toBe(-Infinity);
          expect(part.every((x) => x === 0)).toBe(true);
          continue;
        }
        expect(relativeL2(part, expected.out.subarray(row * headDim, (row + 1) * headDim))).toBeLessThan(
          BASELINE_CEILINGS[baseline],
        );
        // -FLT_MAX times ln 2 is known to a few float32 roundings.
        expect(Math.abs(ours.lse[row]! - lse)).toBeLessThan(baselineLseCeiling(baseline) + Math.abs(lse) * 2 ** -21);
      }
      disposeResults(got, exact);
      for (const tensor of Object.values(tensors)) tensor.dispose();
    });

    it('a mask read through strides', async () => {
      const tensors = await uploadInputs(
        device,
        makeInputs('normal', { heads: 2, queries: 20, keys: KEYS, headDim: 64 }, 71),
      );
      const { data } = makeMask('float32', [1, 1, 20, KEYS]);
      const turned = data.map((_, i) => data[(i % 20) * KEYS + Math.floor(i / 20)]!);
      const mask = await device.upload({ type: 'float32', dims: [KEYS, 20], data: turned });
      const straight = { type: 'float32', dims: [20, KEYS], data };
      const expected = await device.baselineAttention(tensors, baseline, { attnMask: straight });
      const got = await device.baselineAttention(tensors, baseline, { attnMask: mask.transpose(0, 1) });
      expect(await device.compare(got.out, expected.out)).toEqual({ relativeL2: 0, worst: 0, odd: 0 });
      disposeResults(got, expected);
      for (const tensor of [...Object.values(tensors), mask]) tensor.dispose();
    });
  });

  it('refuses what it cannot do and what float16 cannot hold', async () => {
    const inputs = makeInputs('normal', { heads: 1, queries: 8, keys: 8, headDim: 64 }, 47);
    const tensors = await uploadInputs(device, inputs);
    await expect(device.baselineAttention(tensors, 'fp17' as never)).rejects.toMatchObject({ code: 'ERR_ARG_RANGE' });
    const attnMask = await device.upload({ type: 'float32', dims: [1, 8], data: new Float32Array(8).fill(Number.NaN) });
    await expect(device.baselineAttention(tensors, 'fp16', { attnMask })).rejects.toMatchObject({
      code: 'ERR_NONFINITE',
    });
    inputs.key.data[5] = 70_000;
    const key = await device.upload(inputs.key);
    await expect(device.baselineAttention({ ...tensors, key }, 'fp16')).rejects.toMatchObject({ code: 'ERR_OVERFLOW' });
    for (const tensor of [...Object.values(tensors), key, attnMask]) tensor.dispose();
  });
});
