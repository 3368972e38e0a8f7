import { describe, expect, it } from 'vitest';
import type { CudaDevice } from '../src/cuda-device.js';
import { cudaStatus } from '../src/cuda-status.js';
import type { CudaTensor } from '../src/cuda-tensor.js';
import { downloaded, placesOf, useGpuDevice } from './gpu-device.js';

type Numbers = Float32Array | Uint16Array | Int8Array;

describe.skipIf(!cudaStatus().available)('download() of a view', () => {
  let device: CudaDevice;
  useGpuDevice((opened) => {
    device = opened;
  });

  /** What a view is to bring. */
  const gathered = (all: Numbers, first: number, { dims, strides }: CudaTensor): Numbers =>
    (all.constructor as Uint16ArrayConstructor).from(placesOf(dims, strides), (at) => all[first + at]!);

  const arrays = { float32: Float32Array, float16: Uint16Array, bfloat16: Uint16Array, int8: Int8Array };
  // Whole words of 16 bytes, odd starts, odd lengths, elements that repeat, and axes that go together in part.
  const views: [name: string, first: number, view: (whole: CudaTensor) => CudaTensor][] = [
    ['rows of a table', 0, (whole) => whole.slice(3, 0, 16)],
    ['rows that begin anywhere', 5, (whole) => whole.slice(3, 5, 21)],
    ['rows of an odd length', 16, (whole) => whole.slice(3, 16, 29)],
    ['columns', 0, (whole) => whole.transpose(2, 3)],
    ['everything the other way round', 0, (whole) => whole.transpose(0, 3).transpose(1, 2)],
    ['one plane of each', 7 * 32, (whole) => whole.slice(1, 1, 2)],
    ['one number, often', 9, (whole) => whole.view([2, 3, 4], { elementOffset: 9, strides: [0, 0, 0] })],
    ['windows', 3, (whole) => whole.view([5, 24], { elementOffset: 3, strides: [1, 1] })],
    [
      'eight axes',
      0,
      (whole) => whole.view([2, 1, 3, 1, 7, 2, 2, 8], { strides: [672, 1, 224, 5, 32, 16, 8, 1] }).transpose(0, 5),
    ],
  ];
  it.each((Object.keys(arrays) as (keyof typeof arrays)[]).flatMap((type) => views.map(([name]) => ({ type, name }))))(
    'brings $name of $type in order',
    async ({ type, name }) => {
      const [, first, make] = views.find((one) => one[0] === name)!;
      const data: Numbers = (arrays[type] as Float32ArrayConstructor).from({ length: 1344 }, (_, i) => (i * 37) % 127);
      await using whole = await device.upload({ type, dims: [2, 3, 7, 32], data });
      const view = make(whole);
      expect(view.isContiguous).toBe(false);
      expect(await downloaded(view)).toEqual(gathered(data, first, view));
    },
  );

  it('brings more than it gathers at a time', async () => {
    const [rows, columns] = [3000, 5000]; // 60 MB, gathered 32 MiB at a time
    const data = Float32Array.from({ length: rows * columns }, (_, i) => i);
    await using whole = await device.upload({ type: 'float32', dims: [rows, columns], data });
    const bytes = device.liveBytes();
    const got = (await whole.transpose(0, 1).download()).data as Float32Array;
    expect(device.liveBytes()).toBe(bytes);
    const wrong = got.findIndex((x, i) => x !== data[(i % rows) * columns + Math.floor(i / rows)]);
    expect(wrong).toBe(-1);
  });
});
