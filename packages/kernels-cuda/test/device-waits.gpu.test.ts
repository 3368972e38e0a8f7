import { setTimeout as sleep } from 'node:timers/promises';
import { makeInputs } from '@int-flash/reference';
import { describe, expect, it } from 'vitest';
import type { CudaDevice } from '../src/cuda-device.js';
import { cudaStatus } from '../src/cuda-status.js';
import { disposeAll, uploadInputs, useGpuDevice } from './gpu-device.js';

describe.skipIf(!cudaStatus().available)('a device that waits for its streams', () => {
  let device: CudaDevice;
  useGpuDevice((opened) => {
    device = opened;
  });

  it('keeps nobody from opening another', async () => {
    const shape = { batch: 2, heads: 8, queries: 8000, keys: 8000, headDim: 64 };
    const given = await uploadInputs(device, makeInputs('normal', shape, 1));
    await using slow = device.createStream();
    const long = device.exactAttention(given, { stream: slow }); // hundreds of milliseconds
    await sleep(20);
    const memory = device.memory();
    await sleep(20); // it waits for `slow` now
    const before = performance.now();
    const stream = device.createStream();
    const opened = performance.now();
    stream.dispose();
    const disposed = performance.now();
    await memory;
    const waited = performance.now() - before;
    expect(waited, 'milliseconds that memory() went on waiting').toBeGreaterThan(20);
    expect(opened - before, 'milliseconds to open a stream').toBeLessThan(waited / 2);
    expect(disposed - opened, 'milliseconds to dispose of it').toBeLessThan(waited / 2);
    disposeAll((await long).out, ...Object.values(given));
  });
});
