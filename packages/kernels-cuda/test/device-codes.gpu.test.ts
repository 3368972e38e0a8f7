import { type FloatType, fromFloat32, toFloat32 } from '@int-flash/ops';
import { packInt4, quantizePerTokenInt4, quantizePerTokenInt8, unpackInt4 } from '@int-flash/quant';
import { makeInputs } from '@int-flash/reference';
import { describe, expect, it } from 'vitest';
import type { CudaDevice } from '../src/cuda-device.js';
import { cudaStatus } from '../src/cuda-status.js';
import type { CudaAttentionOptions } from '../src/device-attention.js';
import { disposeAll, downloaded, uploadInputs, useGpuDevice } from './gpu-device.js';
import { expectSameBits } from './same-bits.js';

const size = (dims: readonly number[]) => dims.reduce((a, b) => a * b, 1);
/** Every code of [-8, 7], in no order that rows share. */
const someCodes = (count: number) => Int8Array.from({ length: count }, (_, i) => ((i * 7 + (i >>> 4) * 3) % 16) - 8);

describe.skipIf(!cudaStatus().available)('codes on the device', () => {
  let device: CudaDevice;
  useGpuDevice((opened) => {
    device = opened;
  });

  describe('INT4', () => {
    it.each([[[1, 8]], [[3, 256]], [[2, 5, 40]], [[2, 3, 17, 64]], [[7, 1, 1000, 128]], [[0, 8]], [[2, 0, 3, 16]]])(
      'packs and unpacks with quant’s bits: %o',
      async (dims) => {
        const data = someCodes(size(dims));
        const codes = await device.upload({ type: 'int8', dims, data });
        const packed = await device.packInt4(codes);
        expect(packed).toMatchObject({ type: 'uint8', dims: [...dims.slice(0, -1), dims.at(-1)! / 2] });
        expectSameBits(await downloaded(packed), packInt4(data));
        const back = await device.unpackInt4(packed);
        expect(back).toMatchObject({ type: 'int8', dims });
        expectSameBits(await downloaded(back), data);
        disposeAll(codes, packed, back);
      },
    );

    it('reads rows through strides, and from any byte', async () => {
      const [rows, dim] = [37, 24];
      const data = someCodes(3 * rows * 41 + 7);
      const memory = await device.upload({ type: 'int8', dims: [data.length], data });
      const bytes = await device.upload({ type: 'uint8', dims: [data.length], data: new Uint8Array(data.buffer) });
      for (const elementOffset of [0, 1, 2, 3, 4, 7]) {
        const strides = [41, rows * 41, 1]; // tokens of two heads by turns
        const at = (from: number, width: number) =>
          Array.from({ length: rows * 2 * width }, (_, i) => {
            const [row, d] = [Math.floor(i / width), i % width];
            return data[from + Math.floor(row / 2) * strides[0]! + (row % 2) * strides[1]! + d]!;
          });
        const packed = await device.packInt4(memory.view([rows, 2, dim], { elementOffset, strides }));
        expectSameBits(
          await downloaded(packed),
          packInt4(Int8Array.from(at(elementOffset, dim))),
          `packed from byte ${elementOffset}`,
        );
        const codes = await device.unpackInt4(bytes.view([rows, 2, dim / 2], { elementOffset, strides }));
        expectSameBits(
          await downloaded(codes),
          unpackInt4(Uint8Array.from(at(elementOffset, dim / 2), (x) => x & 255)),
          `unpacked from byte ${elementOffset}`,
        );
        disposeAll(packed, codes);
      }
      disposeAll(memory, bytes);
    });

    it.each(['float32', 'float16', 'bfloat16'] as const)(
      'packs what quantize makes of %s, whose rows are padded',
      async (type) => {
        const dims = [2, 3, 50, 72];
        const { data, given } = numbers(size(dims), type);
        const tensor = await device.upload({ type, dims, data });
        const { codes, scales } = await device.quantize(tensor, { bits: 4 });
        const packed = await device.packInt4(codes);
        const expected = quantizePerTokenInt4(given, 72);
        expectSameBits(await downloaded(packed), expected.packed);
        expectSameBits(await downloaded(scales), expected.scales);
        disposeAll(tensor, codes, scales, packed);
      },
    );

    it('refuses codes outside [-8, 7], also when a graph replays them', async () => {
      const data = someCodes(4 * 64);
      const codes = await device.upload({ type: 'int8', dims: [4, 64], data });
      await using graph = await device.capture(async (recorder) => {
        const packed = await recorder.packInt4(codes);
        return { packed, back: await recorder.unpackInt4(packed) };
      });
      for (const [at, bad] of [
        [0, 8],
        [100, -9],
        [255, 127],
        [255, -128],
      ] as const) {
        const wrong = data.slice();
        wrong[at] = bad;
        await codes.write(wrong);
        const refused = { code: 'ERR_ARG_RANGE', message: expect.stringContaining('[-8, 7]') };
        await expect(device.packInt4(codes)).rejects.toMatchObject(refused);
        await expect(graph.replay()).rejects.toMatchObject(refused);
      }
      const others = data.map((code) => -1 - code);
      await codes.write(others);
      await graph.replay();
      expectSameBits(await downloaded(graph.result.packed), packInt4(others));
      expectSameBits(await downloaded(graph.result.back), others);
      disposeAll(codes);
    });
  });

  /** Numbers of many magnitudes: as `type` has them, and those as float32. */
  function numbers(count: number, type: FloatType) {
    const wide = Float32Array.from(
      { length: count },
      (_, i) => Math.sin(i * 1.7) * 10 ** ((Math.floor(i / 72) % 7) - 3),
    );
    const data = type === 'float32' ? wide : (fromFloat32(wide, type) as Uint16Array);
    return { data, given: type === 'float32' ? wide : toFloat32(data as Uint16Array, type) };
  }

  it.each(
    (['float16', 'bfloat16'] as const).flatMap((type) =>
      [
        [3, 7, 40],
        [2, 2, 130, 128],
        [300, 8],
        [2, 65, 256],
        [1, 3, 77, 200],
      ].map((dims) => [type, dims] as const),
    ),
  )('quantizes %s with quant’s bits, to INT8 and INT4: %o', async (type, dims) => {
    const { data, given } = numbers(size(dims), type);
    const dim = dims.at(-1)!;
    const tensor = await device.upload({ type, dims, data });
    const [eight, four] = [await device.quantize(tensor), await device.quantize(tensor, { bits: 4 })];
    const [int8, int4] = [quantizePerTokenInt8(given, dim), quantizePerTokenInt4(given, dim)];
    expectSameBits(await downloaded(eight.codes), int8.values);
    expectSameBits(await downloaded(eight.scales), int8.scales);
    expectSameBits(await downloaded(four.codes), unpackInt4(int4.packed, size(dims)));
    expectSameBits(await downloaded(four.scales), int4.scales);
    disposeAll(tensor, eight.codes, eight.scales, four.codes, four.scales);
  });

  describe('half-int8', () => {
    const shape = { batch: 2, heads: 4, kvHeads: 2, queries: 70, keys: 333, headDim: 64 };
    const cases: [string, Partial<typeof shape> & { headDimV?: number }, CudaAttentionOptions][] = [
      ['GQA', {}, {}],
      ['causal', { headDim: 128 }, { isCausal: true, causalAlignment: 'bottom-right' }],
      ['softcap and window', { headDim: 40 }, { softcap: 3, windowSize: [50, 20] }],
      ['values wider', { headDim: 24, headDimV: 200 }, { scale: 0.3 }],
      ['values narrower', { headDim: 256, headDimV: 72 }, {}],
      ['head dim 8, one key', { headDim: 8, keys: 1 }, {}],
      ['no keys', { keys: 0 }, {}],
      ['no queries', { queries: 0 }, {}],
    ];
    // The forward is the one of half-int8 on floats, so equal bits mean equal codes, scales and values in the tiles.
    it.each(
      (['float32', 'float16', 'bfloat16'] as const).flatMap((type) => cases.map((one) => [type, ...one] as const)),
    )('of codes has the bits of half-int8 of their floats: %s, %s', async (type, _, change, options) => {
      const inputs = makeInputs('normal', { ...shape, ...change }, 3);
      const narrow = (data: Float32Array) => (type === 'float32' ? data : fromFloat32(data, type));
      const [query, key, value] = await Promise.all(
        [inputs.query, inputs.key, inputs.value].map(({ dims, data }) =>
          device.upload({ type, dims: [...dims], data: narrow(data) }),
        ),
      );
      const given = { ...options, precision: 'half-int8', returnLse: true } as const;
      const floats = await device.attention(
        { query: query!, key: key!, value: value! },
        { ...given, kernel: 'portable', smoothK: false },
      );
      const [q, k] = [await device.quantize(query!), await device.quantize(key!)];
      const codes = { q: q.codes, k: k.codes, v: value!, qScale: q.scales, kScale: k.scales };
      const got = await device.quantizedAttention(codes, given);
      expect(got.kernel).toBe('portable');
      expectSameBits(await downloaded(got.out), await downloaded(floats.out));
      expectSameBits(await downloaded(got.lse!), await downloaded(floats.lse!));
      disposeAll(query, key, value, q.codes, q.scales, k.codes, k.scales, got.out, got.lse, floats.out, floats.lse);
    });

    it('of codes replays in a graph, for new codes too', async () => {
      const inputs = makeInputs('normal', shape, 4);
      const { query, key, value } = await uploadInputs(device, inputs);
      await using graph = await device.capture(async (recorder) => {
        const [q, k] = [await recorder.quantize(query), await recorder.quantize(key)];
        const codes = { q: q.codes, k: k.codes, v: value, qScale: q.scales, kScale: k.scales };
        return recorder.quantizedAttention(codes, { precision: 'half-int8' });
      });
      await key.write(inputs.key.data.map((x) => -x));
      await graph.replay();
      const expected = await device.attention(
        { query, key, value },
        { precision: 'half-int8', kernel: 'portable', smoothK: false },
      );
      expectSameBits(await downloaded(graph.result.out), await downloaded(expected.out));
      disposeAll(query, key, value, expected.out);
    });

    it('of codes loses what half-int8 loses, and refuses what it refuses', async () => {
      const inputs = makeInputs('normal', { heads: 2, queries: 200, keys: 1000, headDim: 128 }, 5);
      const on = await uploadInputs(device, inputs);
      const [q, k] = [await device.quantize(on.query), await device.quantize(on.key)];
      const codes = { q: q.codes, k: k.codes, v: on.value, qScale: q.scales, kScale: k.scales };
      const [got, exact] = [
        await device.quantizedAttention(codes, { precision: 'half-int8' }),
        await device.exactAttention(on),
      ];
      const { relativeL2, odd } = await device.compare(got.out, exact.out);
      expect(odd).toBe(0);
      expect(relativeL2).toBeLessThan(0.015); // as in forward-cases.gpu.test.ts
      expect(relativeL2).toBeGreaterThan(1e-3);
      for (const kernel of ['hopper', 'sorted'] as const)
        await expect(device.quantizedAttention(codes, { precision: 'half-int8', kernel })).rejects.toMatchObject({
          code: 'ERR_UNSUPPORTED',
        });
      const attend = () => device.quantizedAttention(codes, { precision: 'half-int8' });
      await on.value.write(inputs.value.data.map((x, i) => (i === 77 ? Number.NaN : x)));
      await expect(attend()).rejects.toMatchObject({
        code: 'ERR_NONFINITE',
        message: expect.stringContaining('value'),
      });
      await on.value.write(inputs.value.data.map((x, i) => (i === 77 ? 70_000 : x)));
      await expect(attend()).rejects.toMatchObject({ code: 'ERR_OVERFLOW', message: expect.stringContaining('65504') });
      await on.value.write(inputs.value.data);
      await k.scales.write(new Float32Array(k.scales.size).fill(-1));
      await expect(attend()).rejects.toMatchObject({
        code: 'ERR_ARG_RANGE',
        message: expect.stringContaining('kScale'),
      });
      disposeAll(...Object.values(on), q.codes, q.scales, k.codes, k.scales, got.out, exact.out);
    });
  });
});
