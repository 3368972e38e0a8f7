import { makeInputs } from '@int-flash/reference';
import { describe, expect, it } from 'vitest';
import type { CudaDevice } from '../src/cuda-device.js';
import { cudaStatus } from '../src/cuda-status.js';
import type { CudaAttentionOptions, CudaAttentionResult } from '../src/device-attention.js';
import { BASELINES } from '../src/native-request.js';
import { BASELINE_CEILINGS, CEILINGS } from './ceilings.js';
import { uploadInputs, useGpuDevice } from './gpu-device.js';

// Scores so far from zero that float32 numbers are 16 apart in log2 units. Kernels whose reference lags the maximum by up to 8 must see that a maximum
// is 16 above it: P would be 2^23, which float16 does not hold.
const KEYS = 200;
const log2Units = (score: number) => Math.fround(score * Math.fround(Math.LOG2E));
/** The natural score of the lower key, an odd multiple of 16 in log2 units: 8 more would be rounded up to the next. The other key's is 8 more here. */
const LOW = (() => {
  let low = 1e8;
  while ((log2Units(low) / 16) % 2 === 0 || log2Units(low + 8) !== log2Units(low) + 16) low += 8;
  return low;
})();

const KINDS = ['full-int8', 'half-int8', ...BASELINES] as const;

describe.skipIf(!cudaStatus().available)('scores far from zero', () => {
  let device: CudaDevice;
  useGpuDevice((opened) => {
    device = opened;
  });

  it.each(KINDS)('%s', async (kind) => {
    const inputs = makeInputs('normal', { heads: 2, queries: 20, keys: KEYS, headDim: 64 }, 67);
    const given = await uploadInputs(device, inputs);
    const data = new Float32Array(KEYS).fill(-Infinity);
    data[0] = LOW;
    data[150] = LOW + 8; // in a later tile
    const options: CudaAttentionOptions = { scale: 1e-3, attnMask: { type: 'float32', dims: [1, KEYS], data } };
    const exact = await device.exactAttention(given, options);
    const isOurs = kind === 'full-int8' || kind === 'half-int8';
    const got: CudaAttentionResult = isOurs
      ? await device.attention(given, { ...options, precision: kind })
      : await device.baselineAttention(given, kind, options);
    const { relativeL2, odd } = await device.compare(got.out, exact.out);
    expect(odd).toBe(0);
    expect(relativeL2).toBeLessThan(isOurs ? CEILINGS[kind].relativeL2 : BASELINE_CEILINGS[kind]);
    for (const tensor of [...Object.values(given), got.out, exact.out]) tensor.dispose();
  });
});
