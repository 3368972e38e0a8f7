import { fromFloat32 } from '@int-flash/ops';
import { makeInputs } from '@int-flash/reference';
import { describe, expect, it } from 'vitest';
import type { CudaDevice } from '../src/cuda-device.js';
import { cudaStatus } from '../src/cuda-status.js';
import { disposeAll, uploadInputs, useGpuDevice } from './gpu-device.js';
import { expectSameBits } from './same-bits.js';

describe.skipIf(!cudaStatus().available)('16-bit outputs', () => {
  let device: CudaDevice;
  useGpuDevice((opened) => {
    device = opened;
  });

  // 3 · 37 · 40 and 2 · 65 · 72 elements: one of them no multiple of the four that a thread takes
  const SHAPES = [
    { heads: 3, queries: 37, keys: 50, headDim: 40 },
    { heads: 1, queries: 1, keys: 9, headDim: 8 },
    { heads: 2, queries: 65, keys: 130, headDim: 72 },
  ] as const;

  it.each(SHAPES.flatMap((shape) => (['float16', 'bfloat16'] as const).map((outType) => ({ ...shape, outType }))))(
    '$outType is the float32 output rounded, $heads heads of $queries x $headDim',
    async ({ outType, ...shape }) => {
      const given = await uploadInputs(device, makeInputs('normal', shape, 3));
      const wide = await device.attention(given, { returnLse: true });
      const narrow = await device.attention(given, { outType, returnLse: true });
      expect(narrow.out.type).toBe(outType);
      expect(narrow.out.dims).toEqual(wide.out.dims);
      expect(narrow.lse!.type).toBe('float32');
      const expected = fromFloat32((await wide.out.download()).data as Float32Array, outType);
      expectSameBits((await narrow.out.download()).data, expected);

      const graph = await device.capture((recorder) => recorder.attention(given, { outType }));
      await graph.replay({ repeats: 2 });
      expect(graph.result.out.type).toBe(outType);
      expectSameBits((await graph.result.out.download()).data, expected);
      graph.dispose();
      disposeAll(...Object.values(given), wide.out, wide.lse, narrow.out, narrow.lse);
    },
  );

  it('feeds the next layer without a detour', async () => {
    const inputs = makeInputs('normal', { heads: 2, queries: 64, keys: 64, headDim: 64 }, 4);
    const given = await uploadInputs(device, inputs);
    const first = await device.attention(given, { outType: 'bfloat16' });
    const second = await device.attention({ ...given, query: first.out }, { outType: 'bfloat16' });
    expect(((await second.out.download()).data as Uint16Array).some((bits) => bits !== 0)).toBe(true);
    disposeAll(...Object.values(given), first.out, second.out);
  });

  it('refuses other types, and outputs that a type cannot hold; and works afterwards', async () => {
    const ones = (value: number) => ({ type: 'float32', dims: [1, 1, 8, 8], data: new Float32Array(64).fill(value) });
    const [one, large] = [await device.upload(ones(1)), await device.upload(ones(1e6))];
    const given = { query: one, key: one, value: large };
    for (const outType of ['int8', 'float64', 3, null])
      await expect(device.attention(given, { outType: outType as never })).rejects.toMatchObject({
        code: expect.stringMatching(/^ERR_ARG/),
      });
    await expect(device.attention(given, { outType: 'float16' })).rejects.toMatchObject({ code: 'ERR_OVERFLOW' });
    const { out } = await device.attention(given, { outType: 'bfloat16' });
    expect(((await out.download()).data as Uint16Array)[0]).toBe(fromFloat32(Float32Array.of(1e6), 'bfloat16')[0]);
    disposeAll(one, large, out);
  });
});
