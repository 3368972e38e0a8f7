import { judgeAttention } from '@int-flash/ops';
import { flashDAttention, makeInputs, relativeL2 } from '@int-flash/reference';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type CudaDevice, openCudaDevice } from '../src/cuda-device.js';
import { cudaStatus } from '../src/cuda-status.js';

/**
 * Ceilings of relative L2 on N(0, 1) inputs: operands rounded to 11, 8 and 4 bits. Measured in an emulation of these kernels on much
 * harder inputs (rows eight times as large): 0.0007, 0.005 and 0.08.
 */
const CEILINGS = { fp16: 1e-3, bf16: 1e-2, fp8: 0.12, 'flash-d': 1e-3 } as const;

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

describe.skipIf(!cudaStatus().available)('baselineAttention', () => {
  let device: CudaDevice;
  beforeAll(() => {
    device = openCudaDevice();
  });
  afterAll(() => device.dispose());

  const upload = async (inputs: ReturnType<typeof makeInputs>) => ({
    query: await device.upload(inputs.query),
    key: await device.upload(inputs.key),
    value: await device.upload(inputs.value),
  });

  describe.each(['fp16', 'bf16', 'fp8', 'flash-d'] as const)('%s', (baseline) => {
    it.each(cases)('%s', async (_, shape, options) => {
      const inputs = makeInputs('normal', shape, 43);
      const tensors = await upload(inputs);
      const { out, lse } = await device.baselineAttention(tensors, baseline, { ...options, returnLse: true });
      const expected = flashDAttention(judgeAttention(inputs, { ...options, returnLse: true }));
      const got = (await out.download()).data as Float32Array;
      const gotLse = (await lse!.download()).data as Float32Array;
      if (expected.out.some((x) => x !== 0)) expect(relativeL2(got, expected.out)).toBeLessThan(CEILINGS[baseline]);
      else expect(got.every((x) => x === 0)).toBe(true);
      for (const [i, x] of gotLse.entries()) {
        // A log-sum-exp moves by no more than its largest score does: |q|·|k|·scale of up to 6·√dim, times the rounding of both.
        if (Number.isFinite(expected.lse[i]!))
          expect(Math.abs(x - expected.lse[i]!)).toBeLessThan(4 * CEILINGS[baseline]);
        else expect(x).toBe(-Infinity);
      }
      for (const tensor of [...Object.values(tensors), out, lse!]) tensor.dispose();
    });
  });

  it('refuses what it cannot do and what float16 cannot hold', async () => {
    const inputs = makeInputs('normal', { heads: 1, queries: 8, keys: 8, headDim: 64 }, 47);
    const tensors = await upload(inputs);
    await expect(device.baselineAttention(tensors, 'fp17' as never)).rejects.toMatchObject({ code: 'ERR_ARG_RANGE' });
    await expect(device.baselineAttention(tensors, 'fp16', { softcap: 3 })).rejects.toMatchObject({
      code: 'ERR_UNSUPPORTED',
    });
    inputs.key.data[5] = 70_000;
    const key = await device.upload(inputs.key);
    await expect(device.baselineAttention({ ...tensors, key }, 'fp16')).rejects.toMatchObject({ code: 'ERR_OVERFLOW' });
    for (const tensor of [...Object.values(tensors), key]) tensor.dispose();
  });
});
