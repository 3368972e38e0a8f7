import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type CudaDevice, openCudaDevice } from '../src/cuda-device.js';
import { cudaStatus } from '../src/cuda-status.js';

setFlagsFromString('--expose-gc');
const collect = runInNewContext('gc') as () => void;
/** Collects garbage, and lets finalizers have their turn. */
async function settle(): Promise<void> {
  for (let i = 0; i < 5; i++) {
    collect();
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

const count = (dims: readonly number[]) => dims.reduce((a, b) => a * b, 1);
const counting = (dims: readonly number[]) => ({
  type: 'float32',
  dims,
  data: Float32Array.from({ length: count(dims) }, (_, i) => i),
});

describe.skipIf(!cudaStatus().available)('CudaTensor', () => {
  let device: CudaDevice;
  beforeAll(() => {
    device = openCudaDevice();
  });
  afterAll(() => {
    expect(device.liveBytes()).toBe(0);
    expect(device.pinnedBytes()).toBe(0);
    device.dispose();
  });

  it('is seen through slices, other dims and exchanged axes without a copy', async () => {
    await using whole = await device.upload(counting([2, 3, 4]));
    const bytes = device.liveBytes();
    const numbers = async (view: typeof whole) => Array.from((await view.download()).data as Float32Array);
    expect(await numbers(whole.slice(1, 1, 2))).toEqual([4, 5, 6, 7, 16, 17, 18, 19]);
    expect(await numbers(whole.slice(0, 1).slice(2, 2))).toEqual([14, 15, 18, 19, 22, 23]);
    expect(await numbers(whole.reshape([6, 4]).slice(0, 5))).toEqual([20, 21, 22, 23]);
    expect(await numbers(whole.transpose(0, 2).slice(0, 0, 1))).toEqual([0, 12, 4, 16, 8, 20]);
    expect(whole.transpose(1, 2).dims).toEqual([2, 4, 3]);
    expect((await whole.slice(1, 3).download()).data).toHaveLength(0);
    expect(() => whole.transpose(0, 1).reshape([24])).toThrow(/contiguous/);
    expect(device.liveBytes()).toBe(bytes);
    const view = whole.view([4]);
    view.dispose(); // its parent's memory
    expect(await numbers(view)).toEqual([0, 1, 2, 3]);
  });

  it('attends through exchanged axes as through NHD', async () => {
    const dims = [1, 70, 2, 32];
    await using nhd = await device.upload({
      type: 'float32',
      dims,
      data: Float32Array.from({ length: count(dims) }, (_, i) => Math.sin(i * 0.37)),
    });
    const hnd = nhd.transpose(1, 2);
    await using a = (await device.attention({ query: nhd, key: nhd, value: nhd }, { tensorLayout: 'NHD' })).out;
    await using b = (await device.attention({ query: hnd, key: hnd, value: hnd })).out;
    expect((await b.transpose(1, 2).download()).data).toEqual((await a.download()).data);
  });

  it('takes new numbers from the host and from other tensors', async () => {
    await using target = await device.upload(counting([2, 4]));
    await using source = await device.upload(counting([8]));
    await target.slice(0, 1).write(Float32Array.of(9, 8, 7, 6));
    expect(Array.from((await target.download()).data as Float32Array)).toEqual([0, 1, 2, 3, 9, 8, 7, 6]);
    await target.write(source);
    expect((await target.download()).data).toEqual(counting([8]).data);
    await target.slice(0, 0, 1).write(source.slice(0, 4));
    expect(Array.from((await target.download()).data as Float32Array)).toEqual([4, 5, 6, 7, 4, 5, 6, 7]);
    await expect(target.transpose(0, 1).write(source)).rejects.toMatchObject({ code: 'ERR_UNSUPPORTED' });
    await expect(target.write(new Float32Array(7))).rejects.toMatchObject({ code: 'ERR_SHAPE' });
    await expect(target.write(new Int8Array(8))).rejects.toMatchObject({ code: 'ERR_ARG_TYPE' });
  });

  it('travels through page-locked memory', async () => {
    const pinned = await device.pinned('float32', 1 << 20);
    expect(device.pinnedBytes()).toBe(4 << 20);
    expect(pinned.data.every((x) => x === 0)).toBe(true);
    pinned.data.set(counting([1 << 20]).data);
    const tensor = await device.upload({
      type: 'float32',
      dims: [1 << 18],
      data: pinned.data.subarray(1 << 18, 2 << 18),
    });
    expect(((await tensor.download()).data as Float32Array)[5]).toBe((1 << 18) + 5);
    const into = pinned.data.subarray(0, 1 << 18);
    expect((await tensor.download({ into })).data).toBe(into);
    expect(pinned.data[7]).toBe((1 << 18) + 7);
    pinned.data.fill(3);
    await tensor.write(pinned.data.subarray(0, 1 << 18));
    expect(((await tensor.download()).data as Float32Array).every((x) => x === 3)).toBe(true);
    await expect(tensor.download({ into: new Float32Array(1 << 18) })).rejects.toMatchObject({ code: 'ERR_ARG_TYPE' });

    const underWay = tensor.download({ into }); // disposed while the GPU may still write to it
    pinned.dispose();
    pinned.dispose();
    expect(pinned.disposed).toBe(true);
    expect(pinned.data).toHaveLength(0);
    await underWay;
    await expect(tensor.write(pinned.data)).rejects.toMatchObject({ code: 'ERR_BUFFER_DETACHED' });
    tensor.dispose();
    // The detached ArrayBuffer lets go of its share in a turn of its own.
    for (let i = 0; i < 50 && device.pinnedBytes() > 0; i++) await new Promise((resolve) => setTimeout(resolve, 10));
    expect(device.pinnedBytes()).toBe(0);
  });

  // What V8 was told does not show in process.memoryUsage().external, which counts ArrayBuffers alone: the pressure shows it.
  it('is collected when nobody disposes of it', async () => {
    // 5,000 x 1 MiB: V8 must feel the pressure by itself, or all of it would stay.
    for (let i = 0; i < 5000; i++) await device.empty('uint8', [1 << 20]);
    expect(device.liveBytes()).toBeLessThan(4500 * 2 ** 20);
    for (let i = 0; i < 20 && device.liveBytes() > 0; i++) await settle();
    expect(device.liveBytes()).toBe(0);
  }, 60_000);
});
