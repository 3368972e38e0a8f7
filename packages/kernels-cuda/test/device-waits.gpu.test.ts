import { setTimeout as sleep } from 'node:timers/promises';
import { makeInputs } from '@int-flash/reference';
import { describe, expect, it } from 'vitest';
import type { CudaDevice } from '../src/cuda-device.js';
import { cudaStatus } from '../src/cuda-status.js';
import { disposeAll, uploadInputs, useGpuDevice } from './gpu-device.js';

const SHAPE = { batch: 2, heads: 8, queries: 8000, keys: 8000, headDim: 64 }; // hundreds of milliseconds of float64

describe.skipIf(!cudaStatus().available)('a stream at work on something long', () => {
  let device: CudaDevice;
  useGpuDevice((opened) => {
    device = opened;
  });

  /** What `meanwhile` took of the time that a long operation went on, in milliseconds, and what was left of that when it was over. */
  async function besides(meanwhile: () => Promise<void>) {
    const given = await uploadInputs(device, makeInputs('normal', SHAPE, 1));
    await using slow = device.createStream();
    const long = device.exactAttention(given, { stream: slow }).then(({ out }) => {
      disposeAll(out, ...Object.values(given));
      return performance.now();
    });
    await sleep(20); // its kernels run, and it waits for them
    const before = performance.now();
    await meanwhile();
    const after = performance.now();
    const over = await long;
    return { took: after - before, left: over - after };
  }

  it('keeps nobody from opening another stream, working there and closing it', async () => {
    const { took, left } = await besides(async () => {
      const stream = device.createStream();
      const tensor = await device.upload({ type: 'float32', dims: [3], data: Float32Array.of(1, 2, 3) }, { stream });
      expect((await tensor.download({ stream })).data).toEqual(Float32Array.of(1, 2, 3));
      tensor.dispose();
      stream.dispose();
    });
    expect(took, 'milliseconds').toBeLessThan(left);
  });

  it('keeps nobody from opening one while all streams are waited for', async () => {
    let memory: Promise<unknown> | undefined;
    const { took, left } = await besides(async () => {
      memory = device.memory();
      await sleep(5); // it waits
      device.createStream().dispose();
    });
    await memory;
    expect(took, 'milliseconds').toBeLessThan(left);
  });

  it('keeps nobody waiting who gives back page-locked memory', async () => {
    const pinned = await device.pinned('uint8', 1 << 20);
    const { took, left } = await besides(async () => {
      pinned.dispose();
      while (device.pinnedBytes() > 0) await sleep(1); // its ArrayBuffer lets go at a turn of the event loop
      await sleep(5); // it is being freed
      device.createStream().dispose();
    });
    expect(took, 'milliseconds').toBeLessThan(left);
  });
});
