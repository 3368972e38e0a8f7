import { judgeAttention, judgeQuantizedAttention } from '@int-flash/ops';
import { quantizePerTokenInt4, quantizePerTokenInt8, quantizeTokenLevelV, unpackInt4 } from '@int-flash/quant';
import { makeInputs } from '@int-flash/reference';
import { describe, expect, it } from 'vitest';
import { createCudaBackend } from '../src/cuda-backend.js';
import type { CudaDevice } from '../src/cuda-device.js';
import { cudaStatus } from '../src/cuda-status.js';
import { useGpuDevice } from './gpu-device.js';
import { expectSameBits } from './same-bits.js';

const [BATCH, HEADS, QUERIES, KEYS, DIM] = [2, 4, 45, 170, 64];

describe.skipIf(!cudaStatus().available)('operands on the device', () => {
  let device: CudaDevice;
  const inputs = makeInputs(
    'normal',
    { batch: BATCH, heads: HEADS, kvHeads: 2, queries: QUERIES, keys: KEYS, headDim: DIM },
    13,
  );
  useGpuDevice((opened) => {
    device = opened;
  });
  const uploadAll = async (tensors: Record<string, Parameters<CudaDevice['upload']>[0]>) => {
    const entries = await Promise.all(
      Object.entries(tensors).map(async ([name, tensor]) => [name, await device.upload(tensor)] as const),
    );
    const dispose = () => {
      for (const [, tensor] of entries) tensor.dispose();
    };
    return { on: Object.fromEntries(entries), dispose };
  };

  const masks: [string, readonly number[]][] = [
    ['bool', [QUERIES, KEYS]],
    ['bool', [BATCH, HEADS, QUERIES, KEYS]],
    ['bool', [BATCH, 1, 1, KEYS]],
    ['float32', [QUERIES, KEYS]],
    ['float32', [1, HEADS, QUERIES, KEYS]],
    ['float32', [BATCH, 1, QUERIES, 1]],
  ];
  it.each(masks)('%s mask %o: the bits of the same mask in host memory', async (type, dims) => {
    const size = dims.reduce((a, b) => a * b, 1);
    const data = type === 'bool' ? new Uint8Array(size) : new Float32Array(size);
    for (let i = 0; i < size; i++)
      data[i] = type === 'bool' ? Number(i % 3 !== 0) : i % 5 === 0 ? -Infinity : (i % 7) / 3;
    const mask = { type, dims, data };
    const { on, dispose } = await uploadAll({ ...inputs, mask });
    const { query, key, value } = on as never as Record<
      'query' | 'key' | 'value',
      Awaited<ReturnType<CudaDevice['upload']>>
    >;
    const backend = createCudaBackend();
    for (const precision of ['full-int8', 'half-int8', 'fp32'] as const) {
      const expected = backend.attentionSync(judgeAttention(inputs, { precision, attnMask: mask, returnLse: true }));
      for (const attnMask of [on.mask!, mask]) {
        const { out, lse } = await device.attention({ query, key, value }, { precision, attnMask, returnLse: true });
        expectSameBits((await out.download()).data, expected.out);
        expectSameBits((await lse!.download()).data, expected.lse!);
        out.dispose();
        lse!.dispose();
      }
    }
    dispose();
  });

  it('reads a mask through strides, and refuses NaN in it', async () => {
    const data = Float32Array.from({ length: KEYS * QUERIES }, (_, i) => (i % 11) / 4);
    const { on, dispose } = await uploadAll({ ...inputs, mask: { type: 'float32', dims: [KEYS, QUERIES], data } });
    const given = { query: on.query!, key: on.key!, value: on.value! };
    const rows = Float32Array.from(
      { length: data.length },
      (_, i) => data[(i % KEYS) * QUERIES + Math.floor(i / KEYS)]!,
    );
    const expected = await device.attention(given, {
      attnMask: { type: 'float32', dims: [QUERIES, KEYS], data: rows },
    });
    const got = await device.attention(given, { attnMask: on.mask!.transpose(0, 1) });
    expect(await device.compare(got.out, expected.out)).toEqual({ relativeL2: 0, worst: 0, odd: 0 });
    for (const bad of [Number.NaN, Infinity]) {
      await on.mask!.write(data.map((x, i) => (i === 4321 ? bad : x)));
      await expect(device.attention(given, { attnMask: on.mask!.transpose(0, 1) })).rejects.toMatchObject({
        code: 'ERR_NONFINITE',
        message: expect.stringContaining('attnMask'),
      });
    }
    await expect(device.attention(given, { attnMask: on.mask!.transpose(0, 1), isCausal: true })).rejects.toMatchObject(
      {
        code: 'ERR_ARG_RANGE',
      },
    );
    await expect(device.attention(given, { attnMask: on.mask! })).rejects.toMatchObject({ code: 'ERR_SHAPE' });
    for (const tensor of [got.out, expected.out]) tensor.dispose();
    dispose();
  });

  const codes = () => {
    const { query, key, value } = inputs;
    const [q8, k8] = [quantizePerTokenInt8(query.data, DIM), quantizePerTokenInt8(key.data, DIM)];
    const heads = Array.from({ length: BATCH * 2 }, (_, h) =>
      quantizeTokenLevelV(value.data.slice(h * KEYS * DIM, (h + 1) * KEYS * DIM), DIM),
    );
    const join = <T extends Int8Array | Float32Array>(parts: T[], like: T): T => {
      const all = new (like.constructor as new (length: number) => T)(
        parts.reduce((sum, part) => sum + part.length, 0),
      );
      let at = 0;
      for (const part of parts) {
        all.set(part as never, at);
        at += part.length;
      }
      return all;
    };
    return {
      q: { type: 'int8', dims: query.dims, data: q8.values },
      k: { type: 'int8', dims: key.dims, data: k8.values },
      v: {
        type: 'int8',
        dims: value.dims,
        data: join(
          heads.map((h) => h.values),
          heads[0]!.values,
        ),
      },
      qScale: { type: 'float32', dims: query.dims.slice(0, 3), data: q8.scales },
      kScale: { type: 'float32', dims: key.dims.slice(0, 3), data: k8.scales },
      vScale: {
        type: 'float32',
        dims: key.dims.slice(0, 3),
        data: join(
          heads.map((h) => h.tokenWeights),
          heads[0]!.tokenWeights,
        ),
      },
      vChannelScale: {
        type: 'float32',
        dims: [BATCH, 2, DIM],
        data: join(
          heads.map((h) => h.channelScales),
          heads[0]!.channelScales,
        ),
      },
    };
  };

  it('attends codes with the bits of the same codes in host memory', async () => {
    const given = codes();
    const { on, dispose } = await uploadAll(given);
    const expected = createCudaBackend().quantizedAttentionSync(judgeQuantizedAttention(given, { returnLse: true }));
    const { out, lse } = await device.quantizedAttention(on as never, { returnLse: true });
    expectSameBits((await out.download()).data, expected.out);
    expectSameBits((await lse!.download()).data, expected.lse!);
    out.dispose();
    lse!.dispose();
    dispose();
  });

  it.each(['qScale', 'kScale', 'vScale', 'vChannelScale'] as const)('refuses a bad %s', async (name) => {
    const given = codes();
    const { on, dispose } = await uploadAll(given);
    const { data } = given[name];
    for (const bad of [0, -1, Number.NaN, Infinity]) {
      await on[name]!.write(data.map((x, i) => (i === data.length - 1 ? bad : x)));
      await expect(device.quantizedAttention(on as never)).rejects.toMatchObject({
        code: 'ERR_ARG_RANGE',
        message: expect.stringContaining(name),
      });
    }
    dispose();
  });

  it.each([
    [8, 'float32', [3, 7, 40]],
    [8, 'float32', [2, 2, 130, 128]],
    [4, 'float32', [5, 256]],
    [8, 'float32', [0, 8]],
  ] as const)('quantizes to %i bits with quant’s codes: %s %o', async (bits, type, dims) => {
    const dim = dims[dims.length - 1]!;
    const size = dims.reduce((a: number, b: number) => a * b, 1);
    const data = Float32Array.from(
      { length: size },
      (_, i) => Math.sin(i * 1.7) * 10 ** ((Math.floor(i / dim) % 9) - 4),
    );
    const tensor = await device.upload({ type, dims, data });
    const { codes: got, scales } = await device.quantize(tensor, { bits });
    const [int8, int4] = [quantizePerTokenInt8(data, dim), quantizePerTokenInt4(data, dim)];
    expect(got.dims).toEqual(dims);
    expectSameBits((await got.download()).data, bits === 8 ? int8.values : unpackInt4(int4.packed, size));
    expectSameBits((await scales.download()).data, bits === 8 ? int8.scales : int4.scales);
    for (const owned of [tensor, got, scales]) owned.dispose();
  });

  it('feeds attention with codes that it made itself', async () => {
    const { on, dispose } = await uploadAll({ ...inputs });
    const [q, k, v] = [
      await device.quantize(on.query!),
      await device.quantize(on.key!),
      await device.quantize(on.value!),
    ];
    const own = { q: q!.codes, k: k!.codes, v: v!.codes, qScale: q!.scales, kScale: k!.scales, vScale: v!.scales };
    const { out } = await device.quantizedAttention(own);
    const exact = await device.exactAttention({ query: on.query!, key: on.key!, value: on.value! });
    expect((await device.compare(out, exact.out)).relativeL2).toBeLessThan(0.03); // two INT8 products on N(0, 1) inputs
    for (const tensor of [...Object.values(own), out, exact.out]) tensor.dispose();
    await on.query!.write(inputs.query.data.map((x, i) => (i === 3 ? Number.NaN : x)));
    await expect(device.quantize(on.query!)).rejects.toMatchObject({ code: 'ERR_NONFINITE' });
    dispose();
  });
});
