import { fromFloat32 } from '@int-flash/ops';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { CudaDevice } from '../src/cuda-device.js';
import { cudaStatus } from '../src/cuda-status.js';
import type { CudaTensor } from '../src/cuda-tensor.js';
import type { CudaAttentionInputs, CudaAttentionResult } from '../src/device-attention.js';
import { BASELINES } from '../src/native-request.js';
import { forwardVariants } from './forward-variants.js';
import { disposeAll, downloaded, useGpuDevice } from './gpu-device.js';
import { normalNumbers, repeated, unevenNumbers } from './normal-numbers.js';
import { QUANTIZE_MODES } from './quantize-modes.js';
import { expectSameBits } from './same-bits.js';

// Heads that are all alike, more elements than 32 bits count: each has to be answered as the first is alone, which lies below 2^31.
// 2^31 and 2^32 are no multiples of a head: an offset that wraps lands elsewhere in its pattern.
const [ROWS, DIM, FEW, HEADS] = [1_000_003, 128, 16, 34];

describe.skipIf(!cudaStatus().available)('offsets of 64 bits', () => {
  let device: CudaDevice;
  useGpuDevice((opened) => {
    device = opened;
  });

  /** `count` heads [ROWS, DIM], all alike, and one alone. */
  async function alikeHeads(type: 'int8' | 'bfloat16', data: Int8Array | Uint16Array, count: number) {
    const one = await device.upload({ type, dims: [1, ROWS, DIM], data });
    const all = await device.empty(type, [count, ROWS, DIM]);
    for (let h = 0; h < count; h++) await all.slice(0, h, h + 1).write(one);
    return { one, all };
  }

  /** Some of them as [1, heads, ROWS, DIM]. */
  const firstOf = (all: CudaTensor, heads: number) => all.slice(0, 0, heads).reshape([1, heads, ROWS, DIM]);
  /** A few rows that all heads have together. */
  const shared = (rows: CudaTensor, heads: number, count: number, from = 0) =>
    rows.view([1, heads, count, DIM], { strides: [0, 0, DIM, 1], elementOffset: from * DIM });

  /** That `together` [1, HEADS, .., DIM] is the first head of `other` in each head, to the bit but for the sign of zeros. */
  async function expectAlike({ out: together }: CudaAttentionResult, { out: other }: CudaAttentionResult) {
    const alone = other.slice(1, 0, 1);
    const rows = alone.dims[2]!;
    for (const from of [0, rows - FEW]) {
      const some = (await alone.slice(2, from, from + FEW).download()).data as Float32Array;
      expect(some.every((x) => Number.isFinite(x)) && some.some((x) => x !== 0)).toBe(true);
    }
    for (let h = 0; h < together.dims[1]!; h++) {
      const found = await device.compare(together.slice(1, h, h + 1), alone);
      expect(found, `head ${h}`).toEqual({ relativeL2: 0, worst: 0, odd: 0 });
    }
    together.dispose();
    other.dispose();
    await device.trim();
  }

  it.each([
    [17, '2^31'],
    [34, '2^32'],
  ] as const)(
    'codes: %i heads, more than %s elements in K and V',
    async (count, _text) => {
      const codes = repeated(
        Int8Array.from(normalNumbers(1_000_003, 1), (x) => Math.round(x * 30)),
        ROWS * DIM,
      );
      const { one, all } = await alikeHeads('int8', codes, count);
      expect(all.size).toBeGreaterThan(count === 17 ? 2 ** 31 : 2 ** 32);
      const ones = (dims: number[], value: number) =>
        device.upload({ type: 'float32', dims, data: new Float32Array(dims.reduce((a, b) => a * b, 1)).fill(value) });
      const scales = {
        qScale: await ones([1, count, FEW], 0.03),
        kScale: await ones([1, count, ROWS], 0.03),
        vScale: await ones([1, count], 0.02),
      };
      const attend = (n: number) =>
        device.quantizedAttention({
          q: shared(one, n, FEW, 7),
          k: firstOf(all, n),
          v: firstOf(all, n),
          qScale: scales.qScale.view([1, n, FEW]),
          kScale: scales.kScale.view([1, n, ROWS]),
          vScale: scales.vScale.view([1, n]),
        });
      await expectAlike(await attend(count), await attend(1));
      for (const tensor of [one, all, ...Object.values(scales)]) tensor.dispose();
      await device.trim();
    },
    120_000,
  );

  describe('of floats', () => {
    let one: CudaTensor;
    let all: CudaTensor;
    beforeAll(async () => {
      const bits = repeated(fromFloat32(normalNumbers(1_000_003, 2), 'bfloat16') as Uint16Array, ROWS * DIM);
      ({ one, all } = await alikeHeads('bfloat16', bits, HEADS));
      expect(all.size).toBeGreaterThan(2 ** 32);
    }, 120_000);
    afterAll(async () => {
      one.dispose();
      all.dispose();
      await device.trim();
    });

    const variants = [
      ...forwardVariants(DIM).map((variant) => ({
        name: `${variant.precision}, ${variant.kernel}`,
        attend: async (inputs: CudaAttentionInputs) => {
          const result = await device.attention(inputs, variant);
          expect(result.kernel).toBe(variant.kernel);
          return result;
        },
      })),
      ...BASELINES.map((baseline) => ({
        name: baseline,
        attend: (inputs: CudaAttentionInputs) => device.baselineAttention(inputs, baseline),
      })),
    ];

    it.each(variants)('$name: more than 2^32 elements in K and V', async ({ attend }) => {
      const query = shared(one, HEADS, FEW, 5);
      const own = await attend({ query, key: firstOf(all, HEADS), value: firstOf(all, HEADS) });
      // As many heads: into how many parts Hopper's kernel cuts the keys depends on that.
      const together = await attend({ query, key: shared(one, HEADS, ROWS), value: shared(one, HEADS, ROWS) });
      await expectAlike(own, together);
    });

    it.each(variants)('$name: more than 2^32 elements in Q and the output', async ({ attend }) => {
      const inputs = (n: number) => ({
        query: firstOf(all, n),
        key: shared(one, n, FEW, 1000),
        value: shared(one, n, FEW, 2000),
      });
      await expectAlike(await attend(inputs(HEADS)), await attend(inputs(1)));
    });
  });

  // 2^31 is no multiple of a head here either.
  describe('quantize(), more than 2^31 elements', () => {
    const COUNT = 17;
    let one: CudaTensor;
    let all: CudaTensor;
    beforeAll(async () => {
      const period = fromFloat32(unevenNumbers([7_919, DIM], 19), 'bfloat16') as Uint16Array;
      ({ one, all } = await alikeHeads('bfloat16', repeated(period, ROWS * DIM), COUNT));
      expect(all.size).toBeGreaterThan(2 ** 31);
    }, 120_000);
    afterAll(async () => {
      one.dispose();
      all.dispose();
      await device.trim();
    });

    it.each(QUANTIZE_MODES)(
      '%s: in heads and, where no means are in it, in one',
      async (_, options) => {
        const alone = await device.quantize(one, options);
        const [codes, scales] = [await downloaded(alone.codes), await downloaded(alone.scales)];
        const means = alone.means && (await downloaded(alone.means));
        expect(codes.some((code) => code !== 0)).toBe(true);
        // As one head it has other means, so only what knows no order is the same.
        const wholes = options.smoothK ? [all] : [all, all.reshape([COUNT * ROWS, DIM])];
        for (const whole of wholes) {
          const made = await device.quantize(whole, options);
          const expectRepeated = async (tensor: CudaTensor, part: typeof scales) => {
            const got = await downloaded(tensor);
            expectSameBits(got, repeated(part, got.length));
          };
          await expectRepeated(made.scales, scales);
          if (means) await expectRepeated(made.means!, means);
          const flat = made.codes.reshape([COUNT, ROWS, DIM]);
          for (const head of [0, 1, 8, 15, 16])
            expectSameBits(await downloaded(flat.slice(0, head, head + 1)), codes, `codes of part ${head}`);
          disposeAll(made.codes, made.scales, made.means);
        }
        disposeAll(alone.codes, alone.scales, alone.means);
        await device.trim();
      },
      60_000,
    );
  });

  describe('200,001 keys', () => {
    const KEYS = 200_001;
    const owned: CudaTensor[] = [];
    let inputs: CudaAttentionInputs;
    let exact: CudaTensor;
    beforeAll(async () => {
      const upload = async (rows: number, seed: number) => {
        const data = repeated(normalNumbers(Math.min(2 * rows * 64, 1_000_003), seed), 2 * rows * 64);
        const tensor = await device.upload({ type: 'float32', dims: [1, 2, rows, 64], data });
        owned.push(tensor);
        return tensor;
      };
      inputs = { query: await upload(8, 3), key: await upload(KEYS, 4), value: await upload(KEYS, 5) };
      exact = (await device.exactAttention(inputs)).out;
      owned.push(exact);
    }, 60_000);
    afterAll(() => disposeAll(...owned));

    it.each(forwardVariants(64).slice(0, 4))('$precision, $kernel', async (variant) => {
      const { out } = await device.attention(inputs, variant);
      // docs/arithmetic.md: 0.0155 and 0.0098 on N(0, 1); 16 rows scatter by a third of that
      const { relativeL2, odd } = await device.compare(out, exact);
      expect(odd).toBe(0);
      expect(relativeL2).toBeLessThan(variant.precision === 'full-int8' ? 0.02 : 0.015);
      out.dispose();
    });
  });
});
