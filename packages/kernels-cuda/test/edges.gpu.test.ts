import { fromFloat32 } from '@int-flash/ops';
import { makeInputs } from '@int-flash/reference';
import { describe, expect, it } from 'vitest';
import type { CudaDevice } from '../src/cuda-device.js';
import { cudaStatus } from '../src/cuda-status.js';
import type { CudaTensor } from '../src/cuda-tensor.js';
import type { CudaAttentionInputs, CudaAttentionOptions } from '../src/device-attention.js';
import { BASELINES } from '../src/native-request.js';
import { BASELINE_CEILINGS, baselineLseCeiling, CEILINGS, FLT_MAX } from './ceilings.js';
import { type ForwardVariant, forwardVariants } from './forward-variants.js';
import { disposeAll, uploadInputs, useGpuDevice } from './gpu-device.js';

// What every kernel must bear, kernel by kernel: zeros, the smallest and the largest numbers, NaN, no keys, and options in pairs.
type Inputs = ReturnType<typeof makeInputs>;
type Name = keyof CudaAttentionInputs;
const NAMES = ['query', 'key', 'value'] as const;
const DIM = 64;
const SHAPE = { heads: 4, kvHeads: 2, queries: 130, keys: 300, headDim: DIM };
const VARIANTS = forwardVariants(DIM);

describe.skipIf(!cudaStatus().available)('edges', () => {
  let device: CudaDevice;
  useGpuDevice((opened) => {
    device = opened;
  });

  const upload = (inputs: Inputs) => uploadInputs(device, inputs);
  const numbers = async (tensor: CudaTensor) => (await tensor.download()).data as Float32Array;
  const normal = makeInputs('normal', SHAPE, 1);
  /** Inputs of which one operand's numbers are others. */
  const changed = (name: Name, change: (x: number, i: number) => number) => ({
    ...normal,
    [name]: { ...normal[name], data: normal[name].data.map(change) },
  });

  async function expectNear(on: CudaAttentionInputs, options: CudaAttentionOptions, name: string) {
    const { precision, kernel: _, ...same } = options;
    const got = await device.attention(on, { ...options, returnLse: true });
    const exact = await device.exactAttention(on, { ...same, returnLse: true });
    const [out, lse] = [await device.compare(got.out, exact.out), await device.compare(got.lse!, exact.lse!)];
    const ceiling = CEILINGS[precision as ForwardVariant['precision']];
    expect({ out: out.odd, lse: lse.odd }, name).toEqual({ out: 0, lse: 0 });
    expect(out.relativeL2, name).toBeLessThan(ceiling.relativeL2);
    expect(lse.worst, name).toBeLessThan(ceiling.lse);
    disposeAll(got.out, got.lse, exact.out, exact.lse);
  }

  describe.each(VARIANTS)('$precision, $kernel', (variant) => {
    const rowOf = (i: number) => Math.floor(i / DIM) % SHAPE.keys;
    const zeros: [string, Inputs][] = [
      ['a row of Q', changed('query', (x, i) => (Math.floor(i / DIM) === 7 ? 0 : x))],
      ['Q', changed('query', () => 0)],
      ['rows of K', changed('key', (x, i) => (rowOf(i) % 3 === 0 ? 0 : x))],
      ['a head of K', changed('key', (x, i) => (i < SHAPE.keys * DIM ? 0 : x))],
      ['some rows of V', changed('value', (x, i) => (rowOf(i) % 20 === 0 ? 0 : x))],
      ['a tile of V', changed('value', (x, i) => (rowOf(i) < 192 ? 0 : x))],
      ['a channel of V', changed('value', (x, i) => (i % DIM === 5 ? 0 : x))],
      ['V', changed('value', () => 0)],
    ];
    it.each(zeros)('zeros: %s', async (name, inputs) => {
      const on = await upload(inputs);
      await expectNear(on, variant, name);
      if (name === 'V') {
        const { out } = await device.attention(on, variant);
        expect((await numbers(out)).every((x) => x === 0)).toBe(true);
        disposeAll(out);
      }
      disposeAll(...Object.values(on));
    });

    it('numbers below the smallest normal one', async () => {
      for (const name of ['query', 'key'] as const) {
        const on = await upload(changed(name, (x) => x * 2 ** -140));
        await expectNear(on, variant, name);
        disposeAll(...Object.values(on));
      }
      // float16 ends far above: of such values nothing is left in half-int8.
      for (const factor of [2 ** -100, 2 ** -140]) {
        const on = await upload(changed('value', (x) => x * factor));
        const { out } = await device.attention(on, variant);
        const largest = (await numbers(out)).reduce((most, x) => Math.max(most, Math.abs(x)), 0);
        if (variant.precision === 'half-int8') expect(largest).toBe(0);
        else if (factor > 2 ** -126) await expectNear(on, variant, 'value');
        else expect(largest).toBeLessThan(2 ** -126);
        disposeAll(out, ...Object.values(on));
      }
    });

    it('NaN, infinities and too large numbers are refused by operand, and it works afterwards', async () => {
      const inputs = makeInputs('normal', SHAPE, 2);
      const on = await upload(inputs);
      const refused = async (name: Name, change: (x: number, i: number) => number, code: string, says: string) => {
        await on[name].write(inputs[name].data.map(change));
        await expect(device.attention(on, variant), `${name}, ${says}`).rejects.toMatchObject({
          code,
          message: expect.stringContaining(says),
        });
        await on[name].write(inputs[name].data);
      };
      for (const name of NAMES)
        for (const bad of [Number.NaN, Infinity, -Infinity])
          for (const at of [0, inputs[name].data.length - 1])
            await refused(name, (x, i) => (i === at ? bad : x), 'ERR_NONFINITE', name);
      for (const large of [2 ** 101, FLT_MAX]) {
        await refused('value', (x, i) => (i === 77 ? large : x), 'ERR_OVERFLOW', 'value');
        await refused('key', (x, i) => (i === 77 ? large : x), 'ERR_OVERFLOW', 'key');
      }
      await refused('query', (x, i) => (i === 77 ? FLT_MAX : x), 'ERR_OVERFLOW', 'scores');
      if (variant.precision === 'half-int8')
        await refused('value', (x, i) => (i === 77 ? 70_000 : x), 'ERR_OVERFLOW', '65504');
      await expectNear(on, variant, 'afterwards');
      disposeAll(...Object.values(on));
    });

    it('one query and one key, no keys, no queries', async () => {
      for (const [queries, keys] of [
        [1, 1],
        [3, 0],
        [0, 5],
      ] as const) {
        const on = await upload(makeInputs('normal', { ...SHAPE, queries, keys }, 3));
        const { out, lse } = await device.attention(on, { ...variant, returnLse: true });
        expect([out.dims, lse!.dims]).toEqual([
          [1, 4, queries, DIM],
          [1, 4, queries],
        ]);
        if (keys === 1) await expectNear(on, variant, 'one key');
        else {
          expect((await numbers(out)).every((x) => x === 0)).toBe(true);
          expect((await numbers(lse!)).every((x) => x === -Infinity)).toBe(true);
        }
        disposeAll(...Object.values(on), out, lse);
      }
    });

    const visible: CudaAttentionOptions[] = [
      { isCausal: true, causalAlignment: 'top-left' },
      { isCausal: true, causalAlignment: 'top-left', windowSize: [40, -1] },
      { causalAlignment: 'top-left', windowSize: [40, 10] },
      { causalAlignment: 'bottom-right', windowSize: [0, 0] },
      { scale: 0.05, isCausal: true, causalAlignment: 'bottom-right' },
      { smoothK: false },
    ];
    it.each(visible)('other lengths of Q than of K: %o', async (options) => {
      for (const [queries, keys] of [
        [130, 300],
        [300, 130],
        [64, 65],
      ] as const) {
        const on = await upload(makeInputs('normal', { ...SHAPE, queries, keys }, 4));
        await expectNear(on, { ...variant, ...options }, `${queries}x${keys}`);
        disposeAll(...Object.values(on));
      }
    });
  });

  // The others take neither softcap nor mask.
  describe.each(VARIANTS.filter(({ kernel }) => kernel === 'portable'))('$precision, portable', (variant) => {
    it.each<CudaAttentionOptions>([
      { softcap: 4, isCausal: true, causalAlignment: 'top-left' },
      { softcap: 4, windowSize: [40, 10], causalAlignment: 'bottom-right' },
    ])('softcap with %o', async (options) => {
      const on = await upload(makeInputs('normal', SHAPE, 5));
      await expectNear(on, { ...variant, ...options }, 'softcap');
      disposeAll(...Object.values(on));
    });

    it.each([
      ['bool', [1, 4, 130, 300], 0],
      ['bool', [1, 1, 1, 300], 0],
      ['float32', [1, 4, 130, 1], 0],
      ['float32', [1, 4, 130, 300], 3],
    ] as const)('a %s mask %o on grouped heads, softcap %f', async (type, dims, softcap) => {
      const size = dims.reduce<number>((product, dim) => product * dim, 1);
      const data = type === 'bool' ? new Uint8Array(size) : new Float32Array(size);
      for (let i = 0; i < size; i++) data[i] = type === 'bool' ? Number((i * 7) % 11 < 7) : ((i * 7) % 11) / 10;
      const on = await upload(makeInputs('normal', SHAPE, 6));
      const attnMask = await device.upload({ type, dims: [...dims], data });
      await expectNear(on, { ...variant, attnMask, softcap }, 'mask');
      disposeAll(attnMask, ...Object.values(on));
    });
  });

  describe.each(BASELINES)('%s', (baseline) => {
    const owned: CudaTensor[] = [];
    it.each([
      ['float32', 4, 1],
      ['float16', 4, 2],
      ['bfloat16', 2, 2],
    ] as const)('packed sequences of %s, %i heads on %i', async (type, heads, kvHeads) => {
      const [cuSeqlensQ, cuSeqlensK] = [
        [0, 5, 69, 69, 199],
        [0, 5, 305, 312, 376],
      ];
      const shape = { heads, kvHeads, queries: 199, keys: 376, headDim: 72, headDimV: 40 };
      const inputs = makeInputs('normal', shape, 7);
      const on = {} as Record<Name, CudaTensor>;
      for (const name of NAMES) {
        const { data, dims } = inputs[name];
        // [1, heads, tokens, dim] seen as [tokens, heads, dim]
        const tensor = await device.upload({
          type,
          dims: [dims[1]!, dims[2]!, dims[3]!],
          data: type === 'float32' ? data : fromFloat32(data, type),
        });
        on[name] = tensor.transpose(0, 1);
        owned.push(tensor);
      }
      for (const causalAlignment of ['top-left', 'bottom-right'] as const) {
        const options = {
          tensorLayout: 'NHD',
          cuSeqlensQ,
          cuSeqlensK,
          isCausal: true,
          causalAlignment,
          returnLse: true,
        } as const;
        const got = await device.baselineAttention(on, baseline, options);
        const exact = await device.exactAttention(on, options);
        const [out, lse] = [await device.compare(got.out, exact.out), await device.compare(got.lse!, exact.lse!)];
        expect({ out: out.odd, lse: lse.odd }).toEqual({ out: 0, lse: 0 });
        expect(out.relativeL2).toBeLessThan(BASELINE_CEILINGS[baseline]);
        expect(lse.worst).toBeLessThan(baselineLseCeiling(baseline));
        disposeAll(got.out, got.lse, exact.out, exact.lse);
      }
      disposeAll(...owned.splice(0));
    });
  });
});
