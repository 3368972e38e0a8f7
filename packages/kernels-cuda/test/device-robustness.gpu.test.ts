import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { Worker } from 'node:worker_threads';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type CudaDevice, openCudaDevice } from '../src/cuda-device.js';
import { cudaStatus } from '../src/cuda-status.js';
import { loadNativeAddon } from '../src/native-addon.js';

const MIB = 2 ** 20;
const here = (name: string) => fileURLToPath(new URL(name, import.meta.url));
const addonPath = () => (loadNativeAddon() as { path: string }).path;

describe.skipIf(!cudaStatus().available)('a device under stress', () => {
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

  it('leaves the memory as it was after 10,000 rounds', async () => {
    const data = tensor([1, 2, 100, 64]);
    const precisions = ['full-int8', 'half-int8', 'paper-int8', 'fp32'] as const;
    const round = async (i: number) => {
      const t = await device.upload(data);
      const { out, lse } = await device.attention(
        { query: t, key: t, value: t },
        { precision: precisions[i % 4]!, returnLse: i % 3 === 0 },
      );
      for (const owned of [out, lse, t]) owned?.dispose();
    };
    for (let i = 0; i < 12; i++) await round(i);
    const before = await device.memory();
    for (let i = 0; i < 10_000; i++) await round(i);
    expect(device.liveBytes()).toBe(0);
    expect(Math.abs((await device.memory()).free - before.free)).toBeLessThanOrEqual(2 * MIB);
  }, 120_000);

  it('completes or refuses calls whose tensors are disposed of meanwhile', async () => {
    const data = tensor([1, 4, 256, 64]);
    const outcomes = new Set<string>();
    for (let i = 0; i < 200; i++) {
      const t = await device.upload(data);
      const graph = i % 10 === 0 ? await device.capture((r) => r.attention({ query: t, key: t, value: t })) : undefined;
      const calls = [
        device.attention({ query: t, key: t, value: t }).then(({ out }) => out.dispose()),
        t.download(),
        ...(graph ? [graph.replay({ repeats: 3 })] : []),
      ];
      t.dispose();
      graph?.dispose();
      for (const result of await Promise.allSettled(calls))
        outcomes.add(result.status === 'fulfilled' ? 'worked' : String((result.reason as { code?: string }).code));
    }
    expect([...outcomes].filter((outcome) => outcome !== 'worked' && outcome !== 'ERR_DISPOSED')).toEqual([]);
    expect(outcomes).toContain('worked');
    expect(device.liveBytes()).toBe(0);
  }, 60_000);

  it('refuses a disposed device and its streams, and frees its tensors all the same', async () => {
    const other = openCudaDevice();
    const stream = other.createStream();
    const t = await other.upload(tensor([4, 8]));
    const underWay = t.download({ stream });
    other.dispose();
    expect((await underWay).data).toHaveLength(32);
    expect(stream.disposed).toBe(true);
    const calls: (() => Promise<unknown>)[] = [
      () => other.upload(tensor([1])),
      () => other.memory(),
      () => other.empty('int8', [1]),
      () => t.download(),
    ];
    for (const call of calls) await expect(call()).rejects.toMatchObject({ code: 'ERR_DISPOSED' });
    expect(() => other.createStream()).toThrow(expect.objectContaining({ code: 'ERR_DISPOSED' }));
    expect(other.liveBytes()).toBe(128);
    t.dispose();
    expect(other.liveBytes()).toBe(0);
  });

  it('answers a full device with ERR_OOM, how much was asked for, and works on', async () => {
    const { free } = await device.memory();
    const error = await device.empty('uint8', [free + 2 ** 30]).catch((thrown: unknown) => thrown);
    expect(error).toMatchObject({ code: 'ERR_OOM', where: 'device', bytes: free + 2 ** 30 });
    const nearlyAll = await device.empty('uint8', [free - 2 ** 30]);
    await expect(device.empty('uint8', [2 ** 31])).rejects.toMatchObject({ code: 'ERR_OOM' });
    const small = await device.upload(tensor([1, 1, 64, 64]));
    const { out } = await device.attention({ query: small, key: small, value: small });
    expect(((await out.download()).data as Float32Array).some((x) => x !== 0)).toBe(true);
    for (const owned of [nearlyAll, small, out]) owned.dispose();
    await device.trim();
    const again = await device.empty('uint8', [free - 2 ** 30]);
    again.dispose();
    await device.trim();
    expect(device.liveBytes()).toBe(0);
  }, 60_000);

  it('answers every call after a fault with ERR_DEVICE_LOST, and the process ends well', () => {
    const { status, stdout, stderr } = spawnSync(process.execPath, [here('process-ends.mjs'), addonPath(), 'lost'], {
      encoding: 'utf8',
      timeout: 60_000,
    });
    expect(stderr).toBe('');
    expect(status).toBe(0);
    expect(JSON.parse(stdout)).toEqual({ codes: Array.from({ length: 7 }, () => 'ERR_DEVICE_LOST'), liveBytes: 0 });
  }, 60_000);

  it.each([
    ['exit', 7],
    ['natural', 0],
    ['throw', 1],
  ] as const)(
    'ends a process in mid-work: %s',
    (mode, expected) => {
      for (let i = 0; i < 5; i++) {
        const { status, signal, stderr } = spawnSync(process.execPath, [here('process-ends.mjs'), addonPath(), mode], {
          encoding: 'utf8',
          timeout: 60_000,
        });
        expect(signal).toBe(null);
        expect(status).toBe(expected);
        if (mode === 'throw') expect(stderr).toContain('on purpose');
        else expect(stderr).toBe('');
      }
    },
    120_000,
  );

  it('survives 50 worker threads that are terminated while the GPU works for them', async () => {
    const run = async () => {
      const worker = new Worker(here('busy-worker.mjs'), { workerData: { path: addonPath() } });
      const failed = new Promise<never>((_, reject) => worker.once('error', reject));
      await Promise.race([new Promise((resolve) => worker.once('message', resolve)), failed]);
      expect(await worker.terminate()).toBe(1);
    };
    await run();
    const before = await device.memory();
    for (let i = 0; i < 50; i++) await run();
    // A worker that left its buffers behind would cost 32 MiB each time.
    expect(before.free - (await device.memory()).free).toBeLessThan(64 * MIB);
    const t = await device.upload(tensor([8]));
    expect((await t.download()).data).toEqual(tensor([8]).data);
    t.dispose();
  }, 120_000);
});
