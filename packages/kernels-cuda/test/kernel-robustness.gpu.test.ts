import { quantizePerTokenInt8 } from '@int-flash/quant';
import { makeInputs } from '@int-flash/reference';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { CudaDevice } from '../src/cuda-device.js';
import { cudaStatus } from '../src/cuda-status.js';
import type { CudaTensor } from '../src/cuda-tensor.js';
import { type DeviceHandle, loadNativeAddon, type NativeAddon } from '../src/native-addon.js';
import { type ForwardVariant, forwardVariants } from './forward-variants.js';
import { normalNumbers, repeated } from './normal-numbers.js';

describe.skipIf(!cudaStatus().available)('kernels under stress', () => {
  let addon: NativeAddon;
  let handle: DeviceHandle; // of `device`, for what only tests may do
  let device: CudaDevice;
  beforeAll(() => {
    addon = loadNativeAddon().addon!;
    handle = addon.openDevice(0);
    device = new CudaDevice(addon, handle);
  });
  afterAll(() => {
    expect(device.liveBytes()).toBe(0);
    device.dispose();
  });

  /** 32-bit words in which two tensors, each with a memory of its own, differ. */
  const differences = (a: CudaTensor, b: CudaTensor) =>
    addon.countDifferences(handle, a.nativeSource(handle).buffer, b.nativeSource(handle).buffer);

  describe('never read what is not theirs', () => {
    const [HEADS, CAPACITY, DIM] = [2, 1152, 64];
    const lengths = [1, 63, 64, 65, 127, 129, 257, 1023];
    const numbers = [1, 2, 3].map((seed) => normalNumbers(HEADS * CAPACITY * DIM, seed));

    it.each(forwardVariants(64))(
      '$precision, $kernel: NaN behind each sequence, 0xFF in shared memory',
      async (variant) => {
        for (const length of lengths) {
          const dims = [1, HEADS, CAPACITY, DIM];
          const upload = async (padding: number) =>
            Promise.all(
              numbers.map((data) => {
                const padded = data.map((x, i) => (Math.floor(i / DIM) % CAPACITY < length ? x : padding));
                return device.upload({ type: 'float32', dims, data: padded });
              }),
            );
          const [clean, poisoned] = [await upload(0), await upload(Number.NaN)];
          const attend = async (tensors: CudaTensor[]) => {
            const [query, key, value] = tensors.map((tensor) => tensor.slice(2, 0, length));
            const { out, lse } = await device.attention(
              { query: query!, key: key!, value: value! },
              { ...variant, returnLse: true, isCausal: length % 2 === 0 },
            );
            return [out, lse!] as const;
          };
          const expected = await attend(clean);
          await addon.poisonShared(handle);
          const got = await attend(poisoned);
          expect(await differences(got[0], expected[0]), `output, length ${length}`).toBe(0);
          expect(await differences(got[1], expected[1]), `log-sum-exp, length ${length}`).toBe(0);
          for (const tensor of [...clean, ...poisoned, ...expected, ...got]) tensor.dispose();
        }
      },
      60_000,
    );

    it('the caller’s codes: -128 and scales of NaN around each sequence', async () => {
      for (const length of lengths) {
        const before = 64; // rows of padding before the first as well
        const rows = before + length + 128;
        const { query, key, value } = makeInputs(
          'normal',
          { heads: 1, queries: length, keys: length, headDim: DIM },
          length,
        );
        const place = async (padding: { code: number; scale: number }) => {
          const tensors = await Promise.all(
            [query, key, value].flatMap(({ data }) => {
              const { values, scales } = quantizePerTokenInt8(data, DIM);
              const [codes, all] = [
                new Int8Array(rows * DIM).fill(padding.code),
                new Float32Array(rows).fill(padding.scale),
              ];
              codes.set(values, before * DIM);
              all.set(scales, before);
              return [
                device.upload({ type: 'int8', dims: [rows, DIM], data: codes }),
                device.upload({ type: 'float32', dims: [rows], data: all }),
              ];
            }),
          );
          const [q, qScale, k, kScale, v, vScale] = tensors.map((tensor) =>
            tensor.slice(0, before, before + length).reshape([1, 1, length, ...tensor.dims.slice(1)]),
          );
          const inputs = { q: q!, k: k!, v: v!, qScale: qScale!, kScale: kScale!, vScale: vScale! };
          return { inputs, tensors };
        };
        const clean = await place({ code: 0, scale: 1 });
        const poisoned = await place({ code: -128, scale: Number.NaN });
        const expected = await device.quantizedAttention(clean.inputs, { returnLse: true });
        await addon.poisonShared(handle);
        const got = await device.quantizedAttention(poisoned.inputs, { returnLse: true });
        expect(await differences(got.out, expected.out), `output, length ${length}`).toBe(0);
        expect(await differences(got.lse!, expected.lse!), `log-sum-exp, length ${length}`).toBe(0);
        const owned = [...clean.tensors, ...poisoned.tensors, got.out, got.lse!, expected.out, expected.lse!];
        for (const tensor of owned) tensor.dispose();
      }
    }, 60_000);
  });

  interface Shape {
    readonly variant: ForwardVariant;
    readonly headDim: number;
    readonly batch: number;
    /** Of queries; half as many of keys. */
    readonly heads: number;
    readonly queries: number;
    readonly keys: number;
    readonly isCausal: boolean;
  }
  const HEAD_DIMS = [64, 128, 256];
  /** Nine tiles of keys, the last one not full: rings have four stages at most, so that each is gone round twice. */
  const longKeys = (headDim: number) => (headDim === 64 ? 1580 : 1060);
  // Every variant. Of so few heads and queries Hopper's warpgroups share all queries, and add up (sorted_forward.cc).
  const rings = HEAD_DIMS.flatMap((headDim, d) =>
    forwardVariants(headDim).map((variant, i): Shape => {
      const isCausal = (i + d) % 2 === 1;
      return { variant, headDim, batch: 60, heads: 2, queries: 130, keys: longKeys(headDim), isCausal };
    }),
  );
  // Heads enough that Hopper's warpgroups have queries to themselves and share the 64 of a head that are left over; and keys enough that they share two times 64.
  const hoppers = (headDim: number) => {
    const variants = forwardVariants(headDim);
    return (['full-int8', 'half-int8'] as const).map((name) => variants.find(({ precision }) => precision === name)!);
  };
  const many = { batch: 1, heads: 34 };
  const apart = HEAD_DIMS.flatMap((headDim) =>
    hoppers(headDim).map((variant, i): Shape => {
      const queries = headDim === 256 ? 560 : 626;
      return { ...many, variant, headDim, queries, keys: longKeys(headDim), isCausal: i === 0 };
    }),
  );
  apart.push({ ...many, variant: hoppers(64)[0]!, headDim: 64, queries: 676, keys: 6200, isCausal: false });
  // Keys in parts, which are put together afterwards.
  apart.push({
    batch: 1,
    heads: 2,
    variant: hoppers(128)[0]!,
    headDim: 128,
    queries: 130,
    keys: 12400,
    isCausal: false,
  });
  // What is left of 32: short ones, where nothing goes round.
  const lengths = [
    [1, 300],
    [200, 129],
    [65, 127],
    [128, 257],
    [1, 129],
  ] as const;
  const short = lengths.slice(0, 32 - rings.length - apart.length).map(([queries, keys], i): Shape => {
    const variant = forwardVariants(40)[i]!;
    return { variant, headDim: 40, batch: 60, heads: 4, queries, keys, isCausal: i % 2 === 1 };
  });
  const shapes = [...rings, ...apart, ...short];
  it.each(['idle', 'with the memory taken'])(
    'give the same bits 1,000 times for each of 32 shapes, %s',
    async (state) => {
      expect(shapes).toHaveLength(32);
      const { free, total } = await device.memory();
      const [room, most] = [4 * 2 ** 30, 100 * 2 ** 30];
      const taken = state === 'idle' ? undefined : await device.empty('uint8', [Math.max(free - room, 0)]);
      if (taken && total > most + 10 * 2 ** 30) expect(taken.size).toBeGreaterThanOrEqual(most);
      const largest = Math.max(
        ...shapes.map(
          ({ batch, heads, queries, keys, headDim }) => batch * heads * Math.max(queries, keys / 2) * headDim,
        ),
      );
      const pools = await Promise.all(
        [1, 2, 3].map((seed) => {
          const data = repeated(normalNumbers(1_000_003, seed), largest);
          return device.upload({ type: 'float32', dims: [data.length], data });
        }),
      );
      const failures: string[] = [];
      for (const { variant, batch, heads, queries, keys, headDim, isCausal } of shapes) {
        const [query, key, value] = [
          pools[0]!.view([batch, heads, queries, headDim]),
          pools[1]!.view([batch, heads / 2, keys, headDim]),
          pools[2]!.view([batch, heads / 2, keys, headDim]),
        ];
        const graph = await device.capture((recorder) =>
          recorder.attention({ query, key, value }, { ...variant, isCausal, causalAlignment: 'bottom-right' }),
        );
        const { out } = graph.result;
        const first = await device.empty('float32', out.dims);
        await first.write(out);
        let different = 0;
        for (let i = 0; i < 1000; i++) {
          await graph.replay();
          if ((await differences(out, first)) !== 0) different++;
        }
        if (different > 0)
          failures.push(
            `${variant.precision} ${variant.kernel} ${queries}x${keys} dim ${headDim}: ${different} of 1000`,
          );
        graph.dispose();
        first.dispose();
      }
      for (const tensor of [...pools, taken]) tensor?.dispose();
      await device.trim();
      expect(failures).toEqual([]);
    },
    240_000,
  );
});
