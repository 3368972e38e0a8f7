import { IntFlashError } from '@int-flash/ops';
import { describe, expect, it } from 'vitest';
import { CudaDevice } from '../src/cuda-device.js';
import type { DeviceHandle, NativeAddon } from '../src/native-addon.js';

/** An addon of which some calls are as given, and the others promise an empty object. */
function deviceOf(functions: Readonly<Record<string, (...args: never[]) => unknown>>) {
  const called: string[] = [];
  const addon = new Proxy({} as NativeAddon, {
    get:
      (_, name: string) =>
      (...args: never[]) => {
        called.push(name);
        if (functions[name]) return functions[name](...args);
        if (name === 'deviceFacts') return { name: 'none', major: 9, minor: 0, processors: 1, totalBytes: 1 };
        return Promise.resolve({});
      },
  });
  return { device: new CudaDevice(addon, {} as DeviceHandle), called };
}
const nativeError = (code: string) => Object.assign(new Error('as the addon says it'), { code });

describe('CudaDevice on a GPU that was lost', () => {
  const lost = () => Promise.reject(nativeError('ERR_DEVICE_LOST'));

  it('ends with `await using` all the same, and leaves the error of the block alone', async () => {
    const { device, called } = deviceOf({ memory: lost, synchronize: lost, upload: lost });
    const stream = device.createStream();
    const block = async () => {
      await using _device = device;
      await using _stream = stream;
      await device.upload({ type: 'int8', dims: [1], data: new Int8Array(1) });
    };
    await expect(block()).rejects.toMatchObject({ code: 'ERR_DEVICE_LOST', message: 'as the addon says it' });
    expect(called.filter((name) => /^close/.test(name))).toEqual(['closeStream', 'closeDevice']);
    await expect(device.memory()).rejects.toMatchObject({ code: 'ERR_DISPOSED' });
    expect(stream.disposed).toBe(true);
  });

  it('gives errors of the addon their class, where nothing is awaited too', () => {
    const { device } = deviceOf({
      recordEvent: () => {
        throw nativeError('ERR_DEVICE_LOST');
      },
    });
    const stream = device.createStream();
    expect(() => stream.record()).toThrow(IntFlashError);
    expect(() => stream.record()).toThrow(
      expect.objectContaining({ code: 'ERR_DEVICE_LOST', hint: expect.any(String) }),
    );
  });
});

describe('compare()', () => {
  it('refuses tensors whose elements it would not find, or not all of', async () => {
    const { device, called } = deviceOf({
      compare: () => Promise.resolve({ difference: 0, size: 1, worst: 0, odd: 0 }),
    });
    const [a, b, longer] = [
      await device.empty('float32', [4, 6]),
      await device.empty('float32', [4, 6]),
      await device.empty('float32', [5, 6]),
    ];
    const wrong: [typeof a, typeof a][] = [
      [a, longer],
      [longer, a],
      [a.transpose(0, 1), b],
      [a, b.transpose(0, 1)],
      [a, longer.slice(1, 0, 4)],
    ];
    for (const [actual, expected] of wrong)
      await expect(device.compare(actual, expected)).rejects.toMatchObject({ code: 'ERR_SHAPE' });
    expect(called).not.toContain('compare');
    expect(await device.compare(a, b.reshape([24]))).toEqual({ relativeL2: 0, worst: 0, odd: 0 });
    expect(await device.compare(a, longer.slice(0, 1))).toEqual({ relativeL2: 0, worst: 0, odd: 0 });
  });
});

describe('capture()', () => {
  it('gives back what a call makes that was still under way when another one failed', async () => {
    let finish = (_answer: object) => {};
    const { device, called } = deviceOf({
      beginRecording: () => Promise.resolve({}),
      attention: () => new Promise((resolve) => (finish = resolve)),
    });
    const tensor = await device.empty('float32', [1, 1, 4, 8]);
    const good = { query: tensor, key: tensor, value: tensor };
    let slow: Promise<unknown> = Promise.resolve();
    const captured = device.capture((recorder) => {
      slow = recorder.attention(good);
      return Promise.all([slow, recorder.attention({ ...good, key: {} as never })]);
    });
    await expect(captured).rejects.toMatchObject({ code: 'ERR_ARG_TYPE' });
    expect(called.filter((name) => name === 'disposeBuffer')).toHaveLength(0);
    finish({ out: {}, kernel: 0, quantizeMs: 0, forwardMs: [], quantizeRepeatMs: [] });
    await slow;
    expect(called.filter((name) => name === 'disposeBuffer')).toHaveLength(1);
  });
});

describe('await using', () => {
  it('awaits the work of every open stream before it ends their threads', async () => {
    let finish = () => {};
    const { device, called } = deviceOf({ synchronize: () => new Promise<void>((resolve) => (finish = resolve)) });
    device.createStream().dispose();
    device.createStream();
    const closed = device[Symbol.asyncDispose]();
    await new Promise((resolve) => setImmediate(resolve));
    expect(called.filter((name) => name === 'synchronize')).toHaveLength(1);
    expect(called).not.toContain('closeDevice');
    finish();
    await closed;
    expect(called.slice(-2)).toEqual(['closeStream', 'closeDevice']);
  });
});

describe('slice()', () => {
  it('takes nothing from anywhere, from a part that is not all of the memory too', async () => {
    const { device } = deviceOf({});
    const tensor = await device.empty('float32', [4, 8]);
    expect(tensor.slice(1, 4).slice(0, 4).dims).toEqual([0, 4]);
    expect(tensor.slice(0, 4).slice(1, 8).dims).toEqual([0, 0]);
    expect(tensor.slice(0, 1, 3).slice(1, 2, 8).dims).toEqual([2, 6]);
  });
});

describe('download()', () => {
  it('lets the GPU bring a view into order: what comes is as long as the view, and is handed on as it came', async () => {
    const asked: unknown[] = [];
    const { device } = deviceOf({
      download: (...given: never[]) => {
        const [, , byteOffset, target, stream, layout] = given as unknown as Parameters<NativeAddon['download']>;
        asked.push({ byteOffset, bytes: (target as Uint8Array).byteLength, stream, layout });
        (target as Uint8Array).set(Array.from({ length: (target as Uint8Array).length }, (_, i) => i));
        return Promise.resolve();
      },
    });
    const halves = await device.empty('float16', [2, 3, 4]);
    const view = halves.slice(2, 1, 3).transpose(0, 1);
    const { dims, strides, data } = await view.download();
    expect({ dims, strides }).toEqual({ dims: [3, 2, 2], strides: [4, 2, 1] });
    expect(data).toEqual(Uint16Array.from({ length: 12 }, (_, i) => 2 * i + ((2 * i + 1) << 8)));
    // As codes lie: rows of 8 in 64 bytes.
    const codes = (await device.empty('int8', [2, 64])).view([2, 8], { strides: [64, 1] });
    expect((await codes.download()).data).toEqual(Int8Array.from({ length: 16 }, (_, i) => i));
    await halves.slice(0, 1).download();
    await halves.slice(1, 3).download();
    expect(asked).toEqual([
      { byteOffset: 2, bytes: 24, layout: { elementBytes: 2, axes: Float64Array.of(3, 4, 2, 12, 2, 1) } },
      { byteOffset: 0, bytes: 16, layout: { elementBytes: 1, axes: Float64Array.of(2, 64, 8, 1) } },
      { byteOffset: 24, bytes: 24 },
      { byteOffset: 0, bytes: 0 },
    ]);
  });

  it('says so where no array of the host is long enough, and what to do instead', async () => {
    const { device, called } = deviceOf({});
    const [halves, byte] = [await device.empty('float16', [8]), await device.empty('int8', [1])];
    // 2^53 bytes and more, of eight: beyond the addresses that any machine has.
    for (const [tensor, dims] of [
      [halves, [2 ** 52]],
      [byte, [2 ** 40, 2 ** 40]],
    ] as const) {
      const bytes = dims.reduce((product, dim) => product * dim, tensor.type === 'int8' ? 1 : 2);
      await expect(tensor.view(dims, { strides: dims.map(() => 0) }).download()).rejects.toMatchObject({
        code: 'ERR_OOM',
        where: 'host',
        bytes,
        message: expect.stringContaining(`${bytes} bytes of host memory for the download`),
        hint: expect.stringMatching(/slice.*PinnedBuffer/),
      });
    }
    expect(called).not.toContain('download');
  });
});
