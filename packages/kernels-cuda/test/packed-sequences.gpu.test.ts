import { fromFloat32 } from '@int-flash/ops';
import { describe, expect, it } from 'vitest';
import type { CudaDevice } from '../src/cuda-device.js';
import { cudaStatus } from '../src/cuda-status.js';
import type { CudaTensor } from '../src/cuda-tensor.js';
import type { CudaAttentionInputs, CudaAttentionOptions } from '../src/device-attention.js';
import { CEILINGS } from './ceilings.js';
import { type ForwardVariant, forwardVariants } from './forward-variants.js';
import { disposeAll, downloaded, useGpuDevice } from './gpu-device.js';
import { normalNumbers } from './normal-numbers.js';
import { expectSameBits } from './same-bits.js';

// Packed sequences with everything at once: windows, causal masks of both alignments, grouped heads. Each sequence has the bits it has alone, and all are near float64.
interface Packed {
  /** [queries, keys] of each sequence. */
  readonly lengths: readonly (readonly [number, number])[];
  readonly masks: readonly CudaAttentionOptions[];
  readonly shapes: readonly { heads: number; kvHeads: number; headDim: number; headDimV: number }[];
}
const CASES: Record<string, Packed> = {
  'packed sequences': {
    lengths: [
      [5, 5],
      [192, 193],
      [0, 7],
      [64, 300],
      [0, 0],
      [257, 129],
      [3, 0],
      [130, 640],
    ],
    masks: (['top-left', 'bottom-right'] as const).flatMap((causalAlignment) => [
      { causalAlignment, isCausal: true },
      { causalAlignment, isCausal: true, windowSize: [70, -1] },
      { causalAlignment, isCausal: true, windowSize: [0, -1] },
      { causalAlignment, windowSize: [50, 20] },
      { causalAlignment, windowSize: [-1, 130] },
    ]),
    shapes: [
      { heads: 4, kvHeads: 2, headDim: 64, headDimV: 64 },
      { heads: 4, kvHeads: 1, headDim: 128, headDimV: 128 },
      { heads: 2, kvHeads: 2, headDim: 40, headDimV: 104 },
    ],
  },
  // Hopper's kernel cuts their keys into parts, of which a mask may leave most without a key that is seen.
  'few queries and many keys': {
    lengths: [
      [1, 6200],
      [70, 12500],
      [0, 7000],
      [64, 3100],
      [5, 5],
      [130, 9300],
    ],
    masks: [
      {},
      { isCausal: true, causalAlignment: 'top-left' },
      { isCausal: true, causalAlignment: 'bottom-right' },
      { isCausal: true, causalAlignment: 'bottom-right', windowSize: [7000, -1] },
      { causalAlignment: 'bottom-right', windowSize: [4000, 3500] },
    ],
    shapes: [
      { heads: 2, kvHeads: 1, headDim: 64, headDimV: 64 },
      { heads: 4, kvHeads: 2, headDim: 128, headDimV: 96 },
      { heads: 1, kvHeads: 1, headDim: 256, headDimV: 256 },
    ],
  },
};
function startsOf(lengths: Packed['lengths'], which: 0 | 1): number[] {
  const starts = [0];
  for (const pair of lengths) starts.push(starts.at(-1)! + pair[which]);
  return starts;
}

describe.skipIf(!cudaStatus().available).each(Object.entries(CASES))('%s', (_, { lengths, masks, shapes }) => {
  const [startsQ, startsK] = [startsOf(lengths, 0), startsOf(lengths, 1)];
  let device: CudaDevice;
  useGpuDevice((opened) => {
    device = opened;
  });

  const upload = (tokens: number, heads: number, dim: number, seed: number) =>
    device.upload({ type: 'float32', dims: [tokens, heads, dim], data: normalNumbers(tokens * heads * dim, seed) });

  /** Sequence `i` as a batch of one. */
  function aloneOf({ query, key, value }: CudaAttentionInputs, i: number): CudaAttentionInputs {
    const part = (tensor: CudaTensor, starts: readonly number[]) => {
      const [from, to] = [starts[i]!, starts[i + 1]!];
      return tensor.slice(0, from, to).reshape([1, to - from, ...tensor.dims.slice(1)]);
    };
    return { query: part(query, startsQ), key: part(key, startsK), value: part(value, startsK) };
  }

  async function expectAsAlone(inputs: CudaAttentionInputs, variant: ForwardVariant, mask: CudaAttentionOptions) {
    const shared = { ...mask, tensorLayout: 'NHD', returnLse: true } as const;
    const packing = { cuSeqlensQ: startsQ, cuSeqlensK: startsK };
    const name = JSON.stringify(mask);
    const packed = await device.attention(inputs, { ...shared, ...packing, ...variant });
    for (const [i, [queries, keys]] of lengths.entries()) {
      if (queries === 0) continue;
      const out = await downloaded(packed.out.slice(0, startsQ[i]!, startsQ[i + 1]!));
      const lse = await downloaded(packed.lse!.slice(1, startsQ[i]!, startsQ[i + 1]!));
      if (keys === 0) {
        expect([out.every((x) => x === 0), lse.every((x) => x === -Infinity)], name).toEqual([true, true]);
        continue;
      }
      const alone = await device.attention(aloneOf(inputs, i), { ...shared, ...variant });
      expectSameBits(out, await downloaded(alone.out), `${name}, output of sequence ${i}`);
      expectSameBits(lse, await downloaded(alone.lse!), `${name}, log-sum-exp of sequence ${i}`);
      disposeAll(alone.out, alone.lse);
    }
    const exact = await device.exactAttention(inputs, { ...shared, ...packing });
    const [out, lse] = [await device.compare(packed.out, exact.out), await device.compare(packed.lse!, exact.lse!)];
    const ceiling = CEILINGS[variant.precision];
    expect(out.odd + lse.odd, name).toBe(0);
    expect(out.relativeL2, name).toBeLessThan(ceiling.relativeL2);
    expect(lse.worst, name).toBeLessThan(ceiling.lse);
    disposeAll(packed.out, packed.lse, exact.out, exact.lse);
  }

  describe.each(shapes)('$heads heads on $kvHeads, head dims $headDim and $headDimV', (shape) => {
    const { heads, kvHeads, headDim, headDimV } = shape;
    it.each(forwardVariants(Math.max(headDim, headDimV)))('$precision, $kernel', async (variant) => {
      const [queries, keys] = [startsQ.at(-1)!, startsK.at(-1)!];
      const inputs = {
        query: await upload(queries, heads, headDim, 21),
        key: await upload(keys, kvHeads, headDim, 22),
        value: await upload(keys, kvHeads, headDimV, 23),
      };
      for (const mask of masks) await expectAsAlone(inputs, variant, mask);
      disposeAll(...Object.values(inputs));
    });
  });
});

describe.skipIf(!cudaStatus().available)('few queries and many keys, answers of 16 bits', () => {
  let device: CudaDevice;
  useGpuDevice((opened) => {
    device = opened;
  });

  it.each(forwardVariants(128))('are those of 32 bits, rounded: $precision, $kernel', async (variant) => {
    const upload = async (tokens: number, seed: number) =>
      device.upload({ type: 'float32', dims: [1, 3, tokens, 128], data: normalNumbers(3 * tokens * 128, seed) });
    const inputs = { query: await upload(70, 31), key: await upload(13000, 32), value: await upload(13000, 33) };
    const wide = await device.attention(inputs, { ...variant, returnLse: true });
    const numbers = (await downloaded(wide.out)) as Float32Array;
    for (const outType of ['bfloat16', 'float16'] as const)
      for (const returnLse of [true, false]) {
        const { out, lse } = await device.attention(inputs, { ...variant, outType, returnLse });
        expectSameBits(await downloaded(out), fromFloat32(numbers, outType), `${outType}, ${returnLse}`);
        if (lse) expectSameBits(await downloaded(lse), await downloaded(wide.lse!), outType);
        disposeAll(out, lse);
      }
    disposeAll(wide.out, wide.lse, ...Object.values(inputs));
  });
});
