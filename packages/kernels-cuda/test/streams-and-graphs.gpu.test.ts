import { makeInputs } from '@int-flash/reference';
import { describe, expect, it } from 'vitest';
import { type CudaDevice, openCudaDevice } from '../src/cuda-device.js';
import { cudaStatus } from '../src/cuda-status.js';
import type { CudaAttentionOptions } from '../src/device-attention.js';
import { disposeAll, downloaded, uploadInputs, useGpuDevice } from './gpu-device.js';
import { expectSameBits } from './same-bits.js';

describe.skipIf(!cudaStatus().available)('streams and graphs', () => {
  let device: CudaDevice;
  useGpuDevice((opened) => {
    device = opened;
  });

  const shape = { batch: 2, heads: 4, kvHeads: 2, queries: 130, keys: 300, headDim: 64 };
  const seededInputs = async (seed: number, changes: Partial<typeof shape> = {}) => {
    const host = makeInputs('normal', { ...shape, ...changes }, seed);
    const on = await uploadInputs(device, host);
    return { host, on, dispose: () => disposeAll(...Object.values(on)) };
  };

  it('runs on several streams side by side, with the bits of one', async () => {
    const { on, dispose } = await seededInputs(1);
    const expected = await device.attention(on);
    const streams = Array.from({ length: 4 }, () => device.createStream());
    const answers = await Promise.all(
      Array.from({ length: 40 }, (_, i) => device.attention(on, { stream: streams[i % 4]! })),
    );
    for (const { out } of answers) {
      expect(await device.compare(out, expected.out)).toEqual({ relativeL2: 0, worst: 0, odd: 0 });
      out.dispose();
    }
    expected.out.dispose();
    dispose();
    for (const stream of streams) await stream[Symbol.asyncDispose]();
    expect(streams[0]!.disposed).toBe(true);
    await expect(device.attention(on, { stream: streams[0]! })).rejects.toMatchObject({ code: 'ERR_DISPOSED' });
  });

  it('holds a stream back until an event of another, and measures between events', async () => {
    const { on, dispose } = await seededInputs(2, { queries: 2000, keys: 2000, heads: 8, kvHeads: 8 });
    await using target = await device.upload({ type: 'float32', dims: [4], data: Float32Array.of(1, 2, 3, 4) });
    await using slow = device.createStream();
    await using fast = device.createStream();
    const start = slow.record();
    const long = device.exactAttention(on, { stream: slow }); // tens of milliseconds
    const overwritten = target.write(Float32Array.of(9, 9, 9, 9), { stream: slow });
    const end = slow.record();
    const waiting = fast.wait(end);
    const read = target.download({ stream: fast }); // must find what `slow` writes after its long kernel
    expect(Array.from((await read).data as Float32Array)).toEqual([9, 9, 9, 9]);
    await Promise.all([waiting, overwritten, end.done()]);
    const ms = await end.millisecondsSince(start);
    expect(ms).toBeGreaterThan(1);
    expect(ms).toBeLessThan(20_000);
    (await long).out.dispose();
    dispose();
  });

  it('keeps streams and events of another device out', async () => {
    await using other = openCudaDevice();
    const stream = other.createStream();
    const event = stream.record();
    await event.done();
    const wrong = { code: 'ERR_ARG_TYPE' };
    await using own = device.createStream();
    await expect(own.wait(event)).rejects.toMatchObject(wrong);
    await expect(own.record().millisecondsSince(event)).rejects.toMatchObject(wrong);
    const { on, dispose } = await seededInputs(3);
    await expect(device.attention(on, { stream })).rejects.toMatchObject(wrong);
    dispose();
  });

  const recorded: [string, CudaAttentionOptions][] = [
    ['full-int8', { returnLse: true, isCausal: true }],
    ['half-int8', { precision: 'half-int8', returnLse: true }],
    ['paper-int8', { precision: 'paper-int8' }],
    ['int4-qk', { precision: 'int4-qk', softcap: 5 }],
    ['fp32', { precision: 'fp32', windowSize: [50, 20] }],
  ];
  it.each(recorded)('replays %s with the bits of a call, for new numbers too', async (_, options) => {
    const first = await seededInputs(4);
    const second = await seededInputs(5);
    await using graph = await device.capture((recorder) => recorder.attention(first.on, options));
    const expectSame = async () => {
      const call = await device.attention(first.on, options);
      expectSameBits(await downloaded(graph.result.out), await downloaded(call.out));
      if (call.lse) expectSameBits(await downloaded(graph.result.lse!), await downloaded(call.lse));
      call.out.dispose();
      call.lse?.dispose();
    };
    await expectSame(); // of the recording itself
    for (const name of ['query', 'key', 'value'] as const) await first.on[name].write(second.host[name].data);
    const { ms } = await graph.replay();
    expect(ms).toBeGreaterThan(0);
    await expectSame();
    await using stream = device.createStream();
    await graph.replay({ repeats: 3, stream });
    await expectSame();
    graph.dispose();
    first.dispose();
    second.dispose();
  });

  it('records several operations of which one reads what another wrote', async () => {
    const { on, dispose } = await seededInputs(6, { queries: 128, keys: 128, kvHeads: 4 });
    await using graph = await device.capture(async (recorder) => {
      const { out } = await recorder.attention(on);
      const { codes, scales } = await recorder.quantize(out);
      const { out: last } = await recorder.quantizedAttention({
        q: codes,
        k: codes,
        v: codes,
        qScale: scales,
        kScale: scales,
        vScale: scales,
      });
      return { out, last };
    });
    const recordedBits = await downloaded(graph.result.last);
    await graph.result.last.write(new Float32Array(graph.result.last.size)); // so that the replay has to write it
    for (let i = 0; i < 20; i++) await graph.replay();
    expectSameBits(await downloaded(graph.result.last), recordedBits);
    graph.dispose();
    dispose();
  });

  it('judges the data of each replay, and works on', async () => {
    const { host, on, dispose } = await seededInputs(7);
    await using graph = await device.capture((recorder) => recorder.attention(on));
    const expected = await downloaded(graph.result.out);
    await on.key.write(host.key.data.map((x, i) => (i === 77 ? Number.NaN : x)));
    await expect(graph.replay()).rejects.toMatchObject({
      code: 'ERR_NONFINITE',
      message: expect.stringContaining('key'),
    });
    await on.key.write(host.key.data);
    await graph.replay();
    expectSameBits(await downloaded(graph.result.out), expected);
    dispose(); // the graph keeps what it reads
    await graph.replay({ repeats: 2 });
    expectSameBits(await downloaded(graph.result.out), expected);
    const { out } = graph.result;
    out.dispose(); // the graph's, so nothing happens
    await graph.replay();
    graph.dispose();
    graph.dispose();
    await expect(out.download()).rejects.toMatchObject({ code: 'ERR_DISPOSED' });
    await expect(graph.replay()).rejects.toMatchObject({ code: 'ERR_DISPOSED' });
    expect(device.liveBytes()).toBe(0);
  });

  it('leaves nothing behind when recording fails, and refuses what cannot be recorded', async () => {
    const { host, on, dispose } = await seededInputs(8);
    const bytes = device.liveBytes();
    const failing = device.capture(async (recorder) => {
      await recorder.attention(on);
      throw new Error('enough');
    });
    await expect(failing).rejects.toThrow('enough');
    await expect(device.capture(() => 0)).rejects.toMatchObject({ code: 'ERR_ARG_RANGE' });
    const streamed = device.capture((recorder) => recorder.attention(on, { stream: device.createStream() } as never));
    await expect(streamed).rejects.toMatchObject({ code: 'ERR_ARG_RANGE' });
    await on.value.write(host.value.data.map(() => Infinity));
    await expect(device.capture((recorder) => recorder.attention(on))).rejects.toMatchObject({ code: 'ERR_NONFINITE' });
    let late: unknown;
    await on.value.write(host.value.data);
    await using graph = await device.capture((recorder) => {
      late = recorder;
      return recorder.attention(on);
    });
    await expect((late as { attention(inputs: unknown): Promise<unknown> }).attention(on)).rejects.toMatchObject({
      code: 'ERR_DISPOSED',
    });
    graph.dispose();
    expect(device.liveBytes()).toBe(bytes);
    dispose();
  });

  it('stops between replays when told to', async () => {
    const { on, dispose } = await seededInputs(9);
    await using graph = await device.capture((recorder) => recorder.attention(on));
    const controller = new AbortController();
    const running = graph.replay({ repeats: 1_000_000, signal: controller.signal });
    setTimeout(() => controller.abort(new Error('enough')), 50);
    const started = performance.now();
    await expect(running).rejects.toThrow('enough');
    expect(performance.now() - started).toBeLessThan(5_000); // a million replays take longer
    await graph.replay();
    graph.dispose();
    dispose();
  });

  // Quantizing takes some milliseconds here, attention is one query's: a signal that fires in between is not too late.
  it('stops before attention when told to while the quantizers run', async () => {
    const [heads, keys, headDim] = [256, 131_072, 128];
    const one = await device.upload({
      type: 'bfloat16',
      dims: [1, keys, headDim],
      data: Uint16Array.from({ length: keys * headDim }, (_, i) => 0x3f00 + ((i * 37) & 0xff)),
    });
    const every = one.view([1, heads, keys, headDim], { strides: [0, 0, headDim, 1] }); // all heads alike, in the memory of one
    const query = one.view([1, heads, 1, headDim], { strides: [0, 0, headDim, 1] });
    const inputs = { query, key: every, value: every };
    let quantizeMs = 0;
    for (let i = 0; i < 2; i++) {
      const { out, quantizeMs: ms } = await device.attention(inputs); // the memory is at hand then
      quantizeMs = ms;
      out.dispose();
    }
    expect(quantizeMs).toBeGreaterThan(2);
    const controller = new AbortController();
    const running = device.attention(inputs, { signal: controller.signal });
    const settled = running.then(({ out }) => out.dispose());
    const began = performance.now();
    while (performance.now() - began < quantizeMs / 2); // a timer would be too coarse
    controller.abort(new Error('enough'));
    await expect(settled).rejects.toThrow('enough');
    const { out } = await device.attention(inputs, { signal: new AbortController().signal });
    expect(((await out.download()).data as Float32Array).every(Number.isFinite)).toBe(true);
    out.dispose();
    one.dispose();
    await device.trim();
  });
});
