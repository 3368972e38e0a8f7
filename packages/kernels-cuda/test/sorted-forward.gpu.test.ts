import { type AttentionInputs, type InputFamily, makeInputs } from '@int-flash/reference';
import { describe, expect, it } from 'vitest';
import type { CudaDevice } from '../src/cuda-device.js';
import { cudaStatus } from '../src/cuda-status.js';
import type { CudaTensor } from '../src/cuda-tensor.js';
import type { CudaAttentionOptions } from '../src/device-attention.js';
import { downloaded, useGpuDevice } from './gpu-device.js';
import { normalNumbers, repeated } from './normal-numbers.js';
import { expectSameBits } from './same-bits.js';

const isHopper = cudaStatus().isa === 'sm_90';
type Input = Pick<AttentionInputs['query'], 'data' | 'dims'>;
const FAMILIES = ['normal', 'sharp', 'kbias', 'vout', 'sink', 'sinkall'] as const;
/** Relative L2 at 4,096 keys and head dimension 128, as in docs/arithmetic.md. */
const TARGETS = {
  'full-int8': { normal: 0.0155, sharp: 0.026, kbias: 0.0155, vout: 0.0155, sink: 0.0165, sinkall: 0.021 },
  'half-int8': { normal: 0.0098, sharp: 0.021, kbias: 0.0098, vout: 0.0098, sink: 0.0135, sinkall: 0.0135 },
} as const;

/** What computes on sorted tiles here. */
const KERNELS = [
  { kernel: 'sorted', precisions: ['full-int8'] },
  ...(isHopper ? ([{ kernel: 'hopper', precisions: ['full-int8', 'half-int8'] }] as const) : []),
] as const;

/** What each kernel and precision is judged on, made once. */
const made = new Map<InputFamily, AttentionInputs>();
function longInputs(family: InputFamily): AttentionInputs {
  const inputs = made.get(family) ?? makeInputs(family, { heads: 4, queries: 4096, keys: 4096, headDim: 128 }, 1);
  made.set(family, inputs);
  return inputs;
}

/** Rows that are all different, out of fewer numbers of N(0, 1): 19 million of them would take seconds. */
const CHUNK = 1_000_003;
const chunks = [1, 2, 3].map((seed) => normalNumbers(CHUNK, seed));

describe.skipIf(!cudaStatus().available).each(KERNELS)('the $kernel kernel', ({ kernel, precisions }) => {
  // Beyond 128 channels it wants the shared memory of a data centre's GPU, and only Hopper's was ever at hand.
  const takes = (headDim: number) => isHopper || headDim <= 128;
  let device: CudaDevice;
  useGpuDevice((opened) => {
    device = opened;
  });

  /** Uploads, runs, compares with float64, disposes. */
  async function errorOf(
    tensors: Input[],
    options: CudaAttentionOptions,
  ): Promise<{ relativeL2: number; worst: number; odd: number; lseWorst: number; lseOdd: number }> {
    const [query, key, value] = await Promise.all(
      tensors.map(({ data, dims }) => device.upload({ type: 'float32', dims: [...dims], data })),
    );
    const inputs = { query: query!, key: key!, value: value! };
    const { precision: _precision, kernel: named, ...exactOptions } = options;
    const got = await device.attention(inputs, { ...options, returnLse: true });
    expect(got.kernel).toBe(named);
    const exact = await device.exactAttention(inputs, { ...exactOptions, returnLse: true });
    const out = await device.compare(got.out, exact.out);
    const lse = await device.compare(got.lse!, exact.lse!);
    for (const tensor of [query, key, value, got.out, got.lse, exact.out, exact.lse]) (tensor as CudaTensor).dispose();
    return { ...out, lseWorst: lse.worst, lseOdd: lse.odd };
  }

  for (const precision of precisions) {
    it.each(FAMILIES)(
      `${precision} keeps its error on %s inputs`,
      async (family) => {
        const { query, key, value } = longInputs(family);
        const { relativeL2, odd, lseOdd } = await errorOf([query, key, value], { precision, kernel });
        expect(odd + lseOdd).toBe(0);
        expect(relativeL2).toBeLessThanOrEqual(TARGETS[precision][family]);
        expect(relativeL2).toBeGreaterThan(1e-3);
      },
      60_000,
    );
  }

  // Tiles of each kind: no value stands out, a few do (up to 16 a tile), many do.
  it.each([
    [0, 64],
    [1, 64],
    [16, 128],
    [17, 128],
    [40, 64],
    [16, 256],
    [128, 256],
  ])(
    '%i values of their own magnitude in every 128 keys, head dim %i',
    async (count, headDim) => {
      if (!takes(headDim)) return;
      for (const [queries, keys] of [
        [300, 300],
        [65, 1000],
        [1, 129],
      ] as const) {
        const { query, key, value } = makeInputs('normal', { heads: 2, queries, keys, headDim }, count + 1);
        const values = value.data.map((x, i) => {
          const token = Math.floor(i / headDim) % keys;
          return (token * 37) % 128 < count ? x * 2 ** (-3 - 5 * ((token * 11) % 3)) : x;
        });
        for (const isCausal of [false, true]) {
          const { relativeL2, odd, lseOdd, lseWorst } = await errorOf([query, key, { ...value, data: values }], {
            isCausal,
            causalAlignment: 'bottom-right',
            kernel,
          });
          const name = `${queries}x${keys} causal ${isCausal}`;
          expect(odd + lseOdd, name).toBe(0);
          expect(relativeL2, name).toBeLessThan(queries === 1 ? 0.03 : 0.02);
          expect(lseWorst, name).toBeLessThan(0.15);
        }
      }
    },
    60_000,
  );

  // A last tile of 192 keys ends after 64 or 128 slots where that takes all of its keys.
  it.each([1, 2, 63, 64, 65, 127, 128, 129, 191, 192, 193, 255, 256, 257, 319, 320, 321, 384, 448, 640, 1000])(
    '%i keys of 64 channels',
    async (keys) => {
      const { query, key, value } = makeInputs('normal', { heads: 2, queries: keys + 70, keys, headDim: 64 }, keys);
      for (const mask of [
        {},
        { isCausal: true, causalAlignment: 'bottom-right' },
        { isCausal: true, causalAlignment: 'top-left' },
        { windowSize: [50, 30] },
      ] as const) {
        const { relativeL2, odd, lseOdd, lseWorst } = await errorOf([query, key, value], { ...mask, kernel });
        const name = JSON.stringify(mask);
        expect(odd + lseOdd, name).toBe(0);
        expect(relativeL2, name).toBeLessThan(0.02);
        expect(lseWorst, name).toBeLessThan(0.1);
      }
    },
    60_000,
  );

  // Scores so near to each other that no distance below the maximum would hide a key.
  it.each([64, 128, 256])('a causal mask on scores near zero, head dim %i', async (headDim) => {
    if (!takes(headDim)) return;
    const { query, key, value } = makeInputs('normal', { heads: 2, queries: 700, keys: 700, headDim }, 7);
    for (const factor of [1e-30, 1e-6, 1]) {
      const faint = { ...query, data: query.data.map((x) => x * factor) };
      for (const count of [0, 9, 40]) {
        const values = value.data.map((x, i) => ((Math.floor(i / headDim) * 37) % 128 < count ? x / 16 : x));
        const { relativeL2, odd, lseOdd, lseWorst } = await errorOf([faint, key, { ...value, data: values }], {
          isCausal: true,
          kernel,
        });
        const name = `queries x ${factor}, ${count} small values in 128`;
        expect(odd + lseOdd, name).toBe(0);
        expect(relativeL2, name).toBeLessThan(0.02);
        expect(lseWorst, name).toBeLessThan(0.1);
      }
    }
  });

  // Too few queries to go round, and what 192 a block leave over: Hopper's warpgroups share such items and add up (sm90_items.cuh).
  it.each([
    [2, 1024, 1024, 64],
    [2, 100, 5000, 128],
    [3, 321, 900, 128],
    [27, 832, 832, 64],
    [27, 832, 832, 128],
    [2, 700, 1100, 256],
    [27, 576, 1024, 256],
    [19, 1280, 4096, 64],
  ])(
    '%i heads of %i queries against %i keys, head dim %i',
    async (heads, queries, keys, headDim) => {
      if (!takes(headDim)) return;
      const inputs = [queries, keys, keys].map((tokens, i) => ({
        dims: [1, heads, tokens, headDim],
        data: repeated(chunks[i]!, heads * tokens * headDim),
      }));
      const masks: CudaAttentionOptions[] = [
        {},
        { isCausal: true, causalAlignment: 'bottom-right' },
        { isCausal: true, causalAlignment: 'top-left' },
        { windowSize: [300, 20] },
      ];
      for (const precision of precisions) {
        for (const mask of masks) {
          const options = { ...mask, precision, kernel } as const;
          const { relativeL2, odd, lseOdd, lseWorst } = await errorOf(inputs, options);
          const name = `${precision} ${JSON.stringify(mask)}`;
          expect(odd + lseOdd, name).toBe(0);
          expect(relativeL2, name).toBeLessThan(0.02);
          expect(lseWorst, name).toBeLessThan(0.1);
        }
      }
    },
    60_000,
  );

  it('gives a row the same bits in a batch as alone', async () => {
    for (const [heads, tokens, headDim] of [
      [27, 832, 64],
      [27, 832, 128],
      [4, 1000, 128],
      [2, 769, 256],
    ] as const) {
      if (!takes(headDim)) continue;
      const dims = [7, heads, tokens, headDim];
      const upload = (chunk: Float32Array) =>
        device.upload({ type: 'float32', dims, data: repeated(chunk, 7 * heads * tokens * headDim) });
      const [query, key, value] = await Promise.all(chunks.map(upload));
      const tensors = { query: query!, key: key!, value: value! };
      const options = { kernel, isCausal: true, outType: 'bfloat16' } as const;
      const together = await device.attention(tensors, options);
      const rows = (await together.out.download()).data as Uint16Array;
      const size = heads * tokens * headDim;
      for (const batch of [0, 3, 6]) {
        const one = (tensor: CudaTensor) => tensor.slice(0, batch, batch + 1);
        const { query, key, value } = tensors;
        const alone = await device.attention({ query: one(query), key: one(key), value: one(value) }, options);
        const same = (await alone.out.download()).data as Uint16Array;
        const part = rows.slice(batch * size, (batch + 1) * size);
        expect(Buffer.from(same.buffer).equals(Buffer.from(part.buffer)), `${heads} heads, batch ${batch}`).toBe(true);
        alone.out.dispose();
      }
      for (const tensor of [together.out, ...Object.values(tensors)]) tensor.dispose();
    }
  }, 60_000);

  it('gives packed sequences the bits they have alone', async () => {
    const lengths = [
      [5, 5],
      [192, 193],
      [0, 7],
      [64, 300],
      [257, 1],
      [3, 0],
      [130, 640],
      [256, 1024],
    ] as const;
    const starts = (which: 0 | 1) => {
      const sums = [0];
      for (const pair of lengths) sums.push(sums.at(-1)! + pair[which]);
      return sums;
    };
    const [startsQ, startsK] = [starts(0), starts(1)];
    const upload = (tokens: number, heads: number, seed: number) =>
      device.upload({ type: 'float32', dims: [tokens, heads, 72], data: normalNumbers(tokens * heads * 72, seed) });
    const [query, key, value] = [
      await upload(startsQ.at(-1)!, 4, 3),
      await upload(startsK.at(-1)!, 2, 4),
      await upload(startsK.at(-1)!, 2, 5),
    ];
    for (const precision of precisions) {
      const options = {
        precision,
        kernel,
        isCausal: true,
        causalAlignment: 'bottom-right',
        tensorLayout: 'NHD',
      } as const;
      const packed = await device.attention(
        { query, key, value },
        { ...options, cuSeqlensQ: startsQ, cuSeqlensK: startsK },
      );
      const rows = (await packed.out.download()).data as Float32Array;
      for (const [i, [queries, keys]] of lengths.entries()) {
        if (queries === 0) continue;
        const part = rows.slice(startsQ[i]! * 4 * 72, startsQ[i + 1]! * 4 * 72);
        if (keys === 0) {
          expect(part.every((x) => x === 0)).toBe(true);
          continue;
        }
        const one = (tensor: CudaTensor, from: number, to: number) =>
          tensor.slice(0, from, to).reshape([1, to - from, tensor.dims[1]!, 72]);
        const alone = await device.attention(
          {
            query: one(query, startsQ[i]!, startsQ[i + 1]!),
            key: one(key, startsK[i]!, startsK[i + 1]!),
            value: one(value, startsK[i]!, startsK[i + 1]!),
          },
          options,
        );
        expectSameBits(await downloaded(alone.out), part, `sequence ${i}`);
        alone.out.dispose();
      }
      packed.out.dispose();
    }
    for (const tensor of [query, key, value]) tensor.dispose();
  });

  it('is refused where it does not exist, and left out where the choice is free', async () => {
    const tensor = await device.upload({
      type: 'float32',
      dims: [1, 1, 8, 256],
      data: new Float32Array(8 * 256).fill(1),
    });
    const inputs = { query: tensor, key: tensor, value: tensor };
    const attnMask = { type: 'bool', dims: [8, 8], data: new Uint8Array(64).fill(1) };
    const cases: [CudaAttentionOptions, string][] = [
      [{ softcap: 5 }, 'softcap'],
      [{ attnMask }, 'attnMask'],
      ...(kernel === 'hopper' ? [] : ([[{ precision: 'half-int8' }, 'full-int8']] as [CudaAttentionOptions, string][])),
      [{ precision: 'paper-int8' }, 'full-int8'],
      [{ precision: 'fp32' }, 'full-int8'],
    ];
    for (const [options, what] of cases) {
      await expect(device.attention(inputs, { ...options, kernel })).rejects.toMatchObject({
        code: 'ERR_UNSUPPORTED',
        message: expect.stringContaining(what),
      });
      const free = await device.attention(inputs, options);
      expect(free.kernel).toBe(isHopper && options.precision === 'half-int8' ? 'hopper' : 'portable');
      free.out.dispose();
    }
    tensor.dispose();
  });
});
