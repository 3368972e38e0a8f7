import { makeInputs } from '@int-flash/reference';
import { describe, expect, it } from 'vitest';
import type { CudaDevice } from '../src/cuda-device.js';
import { cudaStatus } from '../src/cuda-status.js';
import { uploadInputs, useGpuDevice } from './gpu-device.js';

// A last tile with few keys, and scores far below 0: what is not there must not become a row's largest.
const isHopper = cudaStatus().isa === 'sm_90';
const KERNELS = isHopper ? (['portable', 'sorted', 'hopper'] as const) : (['portable', 'sorted'] as const);

describe.skipIf(!cudaStatus().available).each(KERNELS)('few keys and scores far below zero: %s', (kernel) => {
  let device: CudaDevice;
  useGpuDevice((opened) => {
    device = opened;
  });

  const shapes = [
    [1, 128, 3],
    [5, 128, 3],
    [20, 128, 2],
    [30, 128, 2],
    [16, 64, 3],
    [31, 256, 3],
    [148, 128, 3],
    [208, 64, 3],
  ].filter(([, headDim]) => isHopper || kernel === 'portable' || headDim! <= 128) as [number, number, number][];

  it.each(shapes)('%i keys of %i channels, times %i', async (keys, headDim, factor) => {
    for (const [seed, bias, smoothK] of [
      [1, 0, true],
      [2, 0, true],
      [3, 1, false],
    ] as const) {
      const made = makeInputs('normal', { heads: 8, queries: keys, keys, headDim }, seed);
      // With a bias of Q's and K's channels against each other all scores are far below zero.
      const moved = (data: Float32Array, by: number) => data.map((x) => (by === 0 ? x * factor : 0.1 * x + by));
      const inputs = await uploadInputs(device, {
        query: { ...made.query, data: moved(made.query.data, -bias) },
        key: { ...made.key, data: moved(made.key.data, bias) },
        value: made.value,
      });
      for (const isCausal of [false, true]) {
        const got = await device.attention(inputs, { isCausal, smoothK, kernel, returnLse: true });
        const exact = await device.exactAttention(inputs, { isCausal, returnLse: true });
        const { relativeL2, odd } = await device.compare(got.out, exact.out);
        const name = `seed ${seed}, causal ${isCausal}`;
        expect(odd, name).toBe(0);
        expect(relativeL2, name).toBeLessThan(0.08);
        const lse = (await got.lse!.download()).data as Float32Array;
        expect(lse.every(Number.isFinite), name).toBe(true);
        for (const tensor of [got.out, got.lse!, exact.out, exact.lse!]) tensor.dispose();
      }
      for (const tensor of Object.values(inputs)) tensor.dispose();
    }
  });
});
