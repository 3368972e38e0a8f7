import { readFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type CudaDevice, openCudaDevice } from '../src/cuda-device.js';
import { cudaStatus } from '../src/cuda-status.js';

describe.skipIf(!cudaStatus().available)('CudaDevice', () => {
  let device: CudaDevice;
  beforeAll(() => {
    device = openCudaDevice();
  });
  afterAll(() => device.dispose());

  const tensor = (dims: number[]) => ({
    type: 'float32',
    dims,
    data: Float32Array.from({ length: dims.reduce((a, b) => a * b, 1) }, (_, i) => Math.sin(i)),
  });

  it('brings back what was uploaded, through views too', async () => {
    const uploaded = await device.upload(tensor([4, 3, 8]));
    expect((await uploaded.download()).data).toEqual(tensor([4, 3, 8]).data);
    expect((await uploaded.view([3, 8], { elementOffset: 24 }).download()).data).toEqual(
      tensor([4, 3, 8]).data.slice(24, 48),
    );
    expect(device.liveBytes()).toBe(4 * 96);
    uploaded.dispose();
    uploaded.dispose();
    expect(device.liveBytes()).toBe(0);
    await expect(uploaded.download()).rejects.toMatchObject({ code: 'ERR_DISPOSED' });
  });

  it('refuses views that reach outside', async () => {
    const small = await device.upload(tensor([1, 1, 8, 8]));
    expect(() => small.view([1, 1, 9, 8])).toThrow(/inside 64 elements, got one that reaches element 71/);
    small.dispose();
  });

  it('refuses bad arguments with typed errors', async () => {
    const t = await device.upload(tensor([1, 2, 8, 16]));
    const inputs = { query: t, key: t, value: t };
    await expect(device.attention(inputs, { precison: 'fp32' } as never)).rejects.toMatchObject({
      code: 'ERR_ARG_RANGE',
    });
    await expect(device.attention({ ...inputs, query: {} as never })).rejects.toMatchObject({ code: 'ERR_ARG_TYPE' });
    await expect(device.attention({ ...inputs, key: t.view([1, 2, 16, 8]) })).rejects.toMatchObject({
      code: 'ERR_SHAPE',
    });
    const other = openCudaDevice();
    await expect(other.attention(inputs)).rejects.toMatchObject({ code: 'ERR_ARG_TYPE' });
    other.dispose();
    other.dispose();
    await expect(other.upload(tensor([1]))).rejects.toMatchObject({ code: 'ERR_DISPOSED' });
    t.dispose();
  });

  it('answers a full device with ERR_OOM and works on', async () => {
    const t = await device.upload(tensor([1, 1, 64, 8]));
    // Strides of 0 make the request large, not the input: 2^30 rows, 32 GiB of output each time, until the card is full.
    const huge = t.view([1, 2 ** 10, 2 ** 20, 8], { strides: [0, 0, 0, 1] });
    const held: { dispose(): void }[] = [];
    const fill = async () => {
      for (let i = 0; i < 8; i++) held.push((await device.attention({ query: huge, key: t, value: t })).out);
    };
    await expect(fill()).rejects.toMatchObject({ code: 'ERR_OOM', where: 'device' });
    for (const tensor of held) tensor.dispose();
    const { out } = await device.attention({ query: t, key: t, value: t });
    expect((await out.download()).data).toHaveLength(512);
    out.dispose();
    t.dispose();
    expect(device.liveBytes()).toBe(0);
  }, 60_000);

  it('never blocks the event loop', async () => {
    const t = await device.upload(tensor([1, 16, 2048, 128]));
    let longest = 0;
    let last = performance.now();
    const timer = setInterval(() => {
      longest = Math.max(longest, performance.now() - last);
      last = performance.now();
    }, 1);
    const started = performance.now();
    const { out } = await device.exactAttention({ query: t, key: t, value: t }); // long enough to be seen
    const took = performance.now() - started;
    clearInterval(timer);
    expect(longest).toBeLessThan(Math.max(took / 2, 20));
    out.dispose();
    t.dispose();
  }, 60_000);

  // libuv has four threads for files, names and hashes: eight waiting calls would leave it none.
  it('leaves libuv’s threads alone', async () => {
    const t = await device.upload(tensor([1, 16, 2048, 128]));
    const inputs = { query: t, key: t, value: t };
    const streams = Array.from({ length: 8 }, () => device.createStream());
    let ended = 0;
    const calls = streams.map(async (stream) => {
      const { out } = await device.exactAttention(inputs, { stream });
      ended++;
      out.dispose();
    });
    await readFile(fileURLToPath(import.meta.url));
    expect(ended).toBe(0);
    await Promise.all(calls);
    t.dispose();
    for (const stream of streams) await stream[Symbol.asyncDispose]();
    expect(device.liveBytes()).toBe(0);
  }, 60_000);
});
