import { ERROR_CODES } from '@int-flash/ops';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type CudaDevice, openCudaDevice } from '../src/cuda-device.js';
import type { CudaGraph } from '../src/cuda-graph.js';
import { cudaStatus } from '../src/cuda-status.js';
import { type DeviceHandle, loadNativeAddon } from '../src/native-addon.js';
import { isReadable, provoke, publicPositions, strangeValues, type Things } from './argument-matrix.js';

const GROUPS = [
  'attention()',
  'quantizedAttention() and quantize()',
  'half-int8 on codes, packInt4() and unpackInt4()',
  'CudaDevice',
  'CudaTensor',
  'streams, events, graphs',
] as const;
/** Would end the device or the context, or start a thread each time. */
const NOT_CALLED = ['probe', 'abortFlag', 'openDevice', 'closeDevice', 'openStream', 'closeStream', 'fault'];

describe.skipIf(!cudaStatus().available)('bad arguments, with a GPU behind them', () => {
  let device: CudaDevice;
  let things: Things;
  beforeAll(async () => {
    device = openCudaDevice();
    const data = Float32Array.from({ length: 256 }, (_, i) => Math.sin(i));
    const tensor = await device.upload({ type: 'float32', dims: [1, 2, 8, 16], data });
    const { codes, scales } = await device.quantize(tensor, { bits: 4 });
    const packed = await device.packInt4(codes);
    const stream = device.createStream();
    const graph: CudaGraph = await device.capture((recorder) =>
      recorder.attention({ query: tensor, key: tensor, value: tensor }),
    );
    things = { device, tensor, codes, scales, packed, stream, event: stream.record(), graph };
  });
  afterAll(() => device?.dispose());

  it.each(GROUPS)(
    '%s: at least 300, each refused with a code',
    async (name) => {
      const verdict = await provoke(publicPositions(things)[name], strangeValues());
      expect(verdict.untyped).toEqual([]);
      expect(verdict.refused).toBeGreaterThanOrEqual(300);
    },
    60_000,
  );

  it('the addon itself: each function, each argument behind a device that works', async () => {
    const { addon } = loadNativeAddon();
    const raw = addon as unknown as Record<string, (...args: unknown[]) => unknown>;
    const handle: DeviceHandle = addon!.openDevice(0);
    const buffer = await addon!.allocate(handle, 64);
    const names = Object.keys(addon!).filter((name) => !NOT_CALLED.includes(name));
    const positions = names.flatMap((name) =>
      [1, 2, 3, 4, 5, 6].map((at) => ({
        name: `${name}, argument ${at}`,
        call: (value: never) => {
          const args = Array.from({ length: 7 }, (_, i) =>
            i === 0 ? handle : i === at ? value : i === 1 ? buffer : 0,
          );
          return raw[name]!(...args);
        },
      })),
    );
    // TypeScript hands the addon objects of its own making: what throws when it is read never gets there.
    const verdict = await provoke(positions, strangeValues().filter(isReadable), (error) =>
      ERROR_CODES.includes((error as { code?: never })?.code as never),
    );
    expect(verdict.untyped).toEqual([]);
    expect(verdict.refused).toBeGreaterThan(300 * 10);
    addon!.closeDevice(handle);
  }, 60_000);

  it('leaves a device that works', async () => {
    const { tensor, graph, codes, scales, packed, stream } = things;
    const { out } = await device.attention({ query: tensor, key: tensor, value: tensor });
    expect(((await out.download()).data as Float32Array).every(Number.isFinite)).toBe(true);
    for (const owned of [out, graph, codes, scales, packed, tensor]) owned.dispose();
    await stream[Symbol.asyncDispose]();
    expect(device.liveBytes()).toBe(0);
  });
});
