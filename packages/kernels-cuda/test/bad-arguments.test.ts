import { ERROR_CODES } from '@int-flash/ops';
import { describe, expect, it } from 'vitest';
import { CudaDevice } from '../src/cuda-device.js';
import { CudaGraph } from '../src/cuda-graph.js';
import type { CudaTensor } from '../src/cuda-tensor.js';
import { type DeviceHandle, type GraphHandle, loadNativeAddon, type NativeAddon } from '../src/native-addon.js';
import { type Position, provoke, publicPositions, strangeValues } from './argument-matrix.js';

/** An addon that answers every call: what it is asked is of no account here, only what never reaches it. */
const answering = new Proxy({} as NativeAddon, {
  get: (_, name) => () => {
    if (name === 'deviceFacts') return { name: 'none', major: 9, minor: 0, processors: 1, totalBytes: 1 };
    if (name === 'allocatePinned') return Promise.resolve({ handle: {}, memory: new ArrayBuffer(8) });
    if (name === 'attention')
      return Promise.resolve({ out: {}, lse: {}, quantizeMs: 0, forwardMs: [], quantizeRepeatMs: [] });
    if (name === 'quantize') return Promise.resolve({ codes: {}, scales: {}, means: {} });
    if (name === 'compare') return Promise.resolve({ difference: 0, size: 1, worst: 0, odd: 0 });
    return Promise.resolve({});
  },
});

async function things() {
  const handle = {} as DeviceHandle;
  const device = new CudaDevice(answering, handle);
  const stream = device.createStream();
  return {
    device,
    stream,
    tensor: await device.empty('float32', [1, 2, 8, 16]),
    codes: await device.empty('int8', [1, 2, 8, 16]),
    scales: await device.empty('float32', [1, 2, 8]),
    packed: await device.empty('uint8', [1, 2, 8, 8]),
    event: stream.record(),
    graph: new CudaGraph(answering, handle, {} as GraphHandle, [], undefined),
  };
}

describe('bad arguments of the public functions', async () => {
  const groups = publicPositions(await things());
  it.each(Object.keys(groups) as (keyof typeof groups)[])(
    '%s: at least 300, each refused with a code',
    async (name) => {
      const verdict = await provoke(groups[name], strangeValues());
      expect(verdict.untyped).toEqual([]);
      expect(verdict.refused).toBeGreaterThanOrEqual(300);
    },
  );

  it('does not take the right arguments for bad ones', async () => {
    const { device, tensor, codes, scales, packed, stream, event, graph } = await things();
    const inputs = { query: tensor, key: tensor, value: tensor };
    await device.attention(inputs, { attnMask: { type: 'bool', dims: [8, 8], data: new Uint8Array(64) }, stream });
    await device.attention(inputs, { attnMask: tensor.view([8, 8]), returnLse: true });
    await device.quantizedAttention({ q: codes, k: codes, v: codes, qScale: scales, kScale: scales, vScale: scales });
    expect((await device.quantize(tensor, { bits: 4 })).codes.strides).toEqual([1024, 512, 64, 1]);
    for (const [granularity, dims] of [
      ['token', [1, 2, 8]],
      ['channel', [1, 2, 16]],
      ['tensor', []],
    ] as const)
      expect((await device.quantize(tensor, { granularity })).scales.dims).toEqual(dims);
    expect((await device.quantize(tensor, { bits: 4, smoothK: true, stream })).means!.dims).toEqual([1, 2, 16]);
    await device.quantizedAttention(
      { q: codes, k: codes, v: tensor, qScale: scales, kScale: scales },
      { precision: 'half-int8' },
    );
    expect(await device.packInt4(codes, { stream })).toMatchObject({ type: 'uint8', dims: [1, 2, 8, 8] });
    expect(await device.unpackInt4(packed)).toMatchObject({ type: 'int8', dims: [1, 2, 8, 16] });
    await stream.wait(event);
    await graph.replay({ repeats: 2, stream });
    await tensor.write(new Float32Array(256), { stream });
    await tensor.write(tensor);
    await device.upload({ type: 'bool', dims: [2], data: new Uint8Array(2) });
  });
});

describe('quantize()', () => {
  it('refuses bad options, and options that do not go together', async () => {
    const { device, tensor } = await things();
    for (const [options, code, message] of [
      [{ granularity: 'row' }, 'ERR_ARG_RANGE', 'token, channel, tensor'],
      [{ granularity: 1 }, 'ERR_ARG_TYPE', 'granularity'],
      [{ smoothK: 1 }, 'ERR_ARG_TYPE', 'smoothK'],
      [{ bits: 5 }, 'ERR_ARG_RANGE', '8 or 4'],
      [{ bits: 4, granularity: 'channel' }, 'ERR_UNSUPPORTED', "'token' with bits 4, got 'channel'"],
      [{ bits: 4, granularity: 'tensor' }, 'ERR_UNSUPPORTED', "'token' with bits 4, got 'tensor'"],
      [{ smoothK: true, granularity: 'channel' }, 'ERR_UNSUPPORTED', "'token' with smoothK, got 'channel'"],
      [{ smoothK: true, granularity: 'tensor', bits: 8 }, 'ERR_UNSUPPORTED', "got 'tensor'"],
      [{ smooth: true }, 'ERR_ARG_RANGE', 'smooth'],
    ] as const)
      await expect(device.quantize(tensor, options as never), JSON.stringify(options)).rejects.toMatchObject({
        code,
        message: expect.stringContaining(message),
      });
  });

  it('records what a graph can keep', async () => {
    const { device, tensor, stream } = await things();
    const graph = await device.capture((recorder) => recorder.quantize(tensor, { bits: 4, smoothK: true }));
    expect(graph.result.means!.dims).toEqual([1, 2, 16]);
    await device.capture((recorder) => recorder.quantize(tensor, { granularity: 'tensor' }));
    for (const options of [{ stream }, { signal: new AbortController().signal }])
      await expect(device.capture((recorder) => recorder.quantize(tensor, options as never))).rejects.toMatchObject({
        code: 'ERR_ARG_RANGE',
      });
  });

  it('hands the kernels what was asked for', async () => {
    const asked: Record<string, unknown>[] = [];
    const noting = new Proxy(answering, {
      get: (addon, name, receiver) =>
        name === 'quantize'
          ? (_: unknown, request: Record<string, unknown>) => {
              asked.push(request);
              return Promise.resolve({ codes: {}, scales: {}, ...(request.smoothK === true && { means: {} }) });
            }
          : Reflect.get(addon, name, receiver),
    });
    const device = new CudaDevice(noting, {} as DeviceHandle);
    const tensor = await device.empty('float16', [3, 8, 24]);
    expect(await device.quantize(tensor)).not.toHaveProperty('means');
    await device.quantize(tensor, { granularity: 'channel' });
    await device.quantize(tensor, { granularity: 'tensor' });
    expect((await device.quantize(tensor.transpose(0, 1), { smoothK: true, bits: 4 })).means!.dims).toEqual([8, 24]);
    const plain = { type: 1, levels: 127, smoothK: false, batch: 1, heads: 3, tokens: 8, dim: 24 };
    expect(asked).toMatchObject([
      { ...plain, granularity: 0 },
      { ...plain, granularity: 1 },
      { ...plain, granularity: 2 },
      { granularity: 0, levels: 7, smoothK: true, heads: 8, tokens: 3, strides: { batch: 0, head: 24, token: 192 } },
    ]);
  });
});

describe('packInt4() and unpackInt4()', () => {
  it('say which tensors they take', async () => {
    const { device, tensor, codes, packed } = await things();
    const refused = async (call: Promise<unknown>, code: string, message: string) =>
      expect(call).rejects.toMatchObject({ code, message: expect.stringContaining(message) });
    await refused(device.packInt4(tensor), 'ERR_ARG_RANGE', 'int8');
    await refused(device.packInt4(packed), 'ERR_ARG_RANGE', 'int8');
    await refused(device.unpackInt4(codes), 'ERR_ARG_RANGE', 'uint8');
    await refused(device.packInt4(await device.empty('int8', [3, 12])), 'ERR_UNSUPPORTED', 'multiple of 8 up to 256');
    await refused(device.packInt4(await device.empty('int8', [2, 264])), 'ERR_UNSUPPORTED', 'got 264');
    await refused(device.unpackInt4(await device.empty('uint8', [2, 6])), 'ERR_UNSUPPORTED', 'multiple of 4 up to 128');
    await refused(device.packInt4(codes.transpose(2, 3)), 'ERR_UNSUPPORTED', 'contiguous');
    await refused(device.packInt4(await device.empty('int8', [64])), 'ERR_SHAPE', 'rank 2 to 4');
    await refused(device.packInt4(codes, { bits: 4 } as never), 'ERR_ARG_RANGE', 'bits');
  });
});

describe('a view whose zero strides repeat its rows', () => {
  const calls = (device: Pick<CudaDevice, 'quantize' | 'packInt4' | 'unpackInt4'>) => ({
    quantize: (tensor: CudaTensor) => device.quantize(tensor),
    'quantize by channel': (tensor: CudaTensor) => device.quantize(tensor, { granularity: 'channel' }),
    packInt4: (tensor: CudaTensor) => device.packInt4(tensor),
    unpackInt4: (tensor: CudaTensor) => device.unpackInt4(tensor),
  });
  type Call = keyof ReturnType<typeof calls>;
  const types = {
    quantize: 'float32',
    'quantize by channel': 'bfloat16',
    packInt4: 'int8',
    unpackInt4: 'uint8',
  } as const;

  /** What the addon is asked of, and what becomes of, `dims` rows of one and the same 32 elements. */
  async function repeated(call: Call, dims: readonly number[]) {
    const asked: string[] = [];
    const noting = new Proxy(answering, {
      get: (addon, name, receiver) => {
        asked.push(String(name));
        return Reflect.get(addon, name, receiver);
      },
    });
    const device = new CudaDevice(noting, {} as DeviceHandle);
    const row = await device.empty(types[call], [32]);
    asked.length = 0;
    const view = row.view([...dims, 32], { strides: [...dims.map(() => 0), 1] });
    const refusal = await calls(device)
      [call](view)
      .then(
        () => undefined,
        (error: unknown) => error,
      );
    return { refusal, asked, device, view };
  }

  it.each(Object.keys(types) as Call[])('%s takes what makes 2^46 bytes at most', async (call) => {
    // The first product is 2^60: with the 16 bytes of a packed row, 2^64, of which 64 bits keep 0.
    for (const dims of [[2 ** 20, 2 ** 10, 2 ** 30], [2 ** 8 + 1, 1, 2 ** 30], [2 ** 30, 2 ** 30], [2 ** 38 + 1]]) {
      const { refusal, asked } = await repeated(call, dims);
      expect(refusal, `${dims}`).toMatchObject({
        code: 'ERR_OVERFLOW',
        message: expect.stringContaining(`2^38 rows (2^46 bytes, 256 a row), got dims [${dims.join(', ')}, 32]`),
      });
      expect(asked).toEqual([]);
    }
    const { refusal, asked } = await repeated(call, [2 ** 8, 1, 2 ** 30]);
    expect(refusal).toBe(undefined);
    expect(asked).toEqual([call.split(' ')[0]]);
  });

  it('is refused on a recorder too', async () => {
    const { device, view } = await repeated('packInt4', [2 ** 20, 2 ** 10, 2 ** 30]);
    await expect(device.capture((recorder) => recorder.packInt4(view))).rejects.toMatchObject({ code: 'ERR_OVERFLOW' });
  });

  it('is refused by attention, whose operands and answer have 2^33 elements at most', async () => {
    const device = new CudaDevice(answering, {} as DeviceHandle);
    const repeat = async (type: 'float32' | 'int8', dims: readonly number[]) =>
      (await device.empty(type, [32])).view(dims, { strides: [0, 0, 0, 1] });
    const [few, most, many] = [2, 2 ** 28, 2 ** 29].map((tokens) => [1, 1, tokens, 32] as const);
    for (const [query, key] of [
      [many!, few!],
      [few!, many!],
    ] as const) {
      const k = await repeat('float32', key);
      const floats = { query: await repeat('float32', query), key: k, value: k };
      const codes = { q: await repeat('int8', query), k: await repeat('int8', key), v: await repeat('int8', key) };
      const scales = { qScale: k, kScale: k };
      for (const call of [
        () => device.attention(floats),
        () => device.exactAttention(floats),
        () => device.baselineAttention(floats, 'fp16'),
        () => device.capture((recorder) => recorder.attention(floats)),
        () => device.quantizedAttention({ ...codes, ...scales, vScale: k }),
        () => device.quantizedAttention({ ...codes, ...scales, v: k }, { precision: 'half-int8' }),
      ])
        await expect(call(), `${query}`).rejects.toMatchObject({
          code: 'ERR_OVERFLOW',
          message: expect.stringContaining('2^33 elements'),
        });
    }
    const k = await repeat('float32', few!);
    const { out } = await device.attention({ query: await repeat('float32', most!), key: k, value: k });
    expect(out.size).toBe(2 ** 33);
  });
});

const { addon } = loadNativeAddon();
describe.skipIf(!addon)('bad arguments of the addon itself', () => {
  // No device here, so each call must stop at its first argument at the latest; handles of another kind among them.
  const names = Object.keys(addon ?? {}).filter((name) => name !== 'probe' && name !== 'abortFlag');
  it.each(names)('%s refuses them with a code', async (name) => {
    const raw = addon as unknown as Record<string, (...args: unknown[]) => unknown>;
    const flag = addon!.abortFlag();
    const values = [undefined, flag, ...strangeValues()];
    const positions: Position[] = [
      { name: 'alone', call: (value) => raw[name]!(value) },
      ...[1, 2, 3, 4, 5].flatMap((at) =>
        [flag, undefined].map((first) => ({
          name: `argument ${at}`,
          call: (value: never) =>
            raw[name]!(
              ...(Array.from({ length: 6 }, (_, i) => (i === 0 ? first : i === at ? value : {})) as unknown[]),
            ),
        })),
      ),
    ];
    const given = name === 'raiseAbortFlag' ? positions.slice(0, 1) : positions;
    const verdict = await provoke(given, values, (error) =>
      ERROR_CODES.includes((error as { code?: never })?.code as never),
    );
    expect(verdict.untyped).toEqual([]);
    if (name !== 'raiseAbortFlag') expect(verdict.refused).toBeGreaterThanOrEqual(300);
  });
});
