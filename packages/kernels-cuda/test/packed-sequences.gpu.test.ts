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
const LENGTHS = [
  [5, 5],
  [192, 193],
  [0, 7],
  [64, 300],
  [0, 0],
  [257, 129],
  [3, 0],
  [130, 640],
] as const;
const MASKS: readonly CudaAttentionOptions[] = (['top-left', 'bottom-right'] as const).flatMap((causalAlignment) => [
  { causalAlignment, isCausal: true },
  { causalAlignment, isCausal: true, windowSize: [70, -1] },
  { causalAlignment, isCausal: true, windowSize: [0, -1] },
  { causalAlignment, windowSize: [50, 20] },
  { causalAlignment, windowSize: [-1, 130] },
]);
const HEADS = [
  { heads: 4, kvHeads: 2, headDim: 64, headDimV: 64 },
  { heads: 4, kvHeads: 1, headDim: 128, headDimV: 128 },
  { heads: 2, kvHeads: 2, headDim: 40, headDimV: 104 },
];
function startsOf(which: 0 | 1): number[] {
  const starts = [0];
  for (const pair of LENGTHS) starts.push(starts.at(-1)! + pair[which]);
  return starts;
}
const [STARTS_Q, STARTS_K] = [startsOf(0), startsOf(1)];

describe.skipIf(!cudaStatus().available)('packed sequences', () => {
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
    return { query: part(query, STARTS_Q), key: part(key, STARTS_K), value: part(value, STARTS_K) };
  }

  async function expectAsAlone(inputs: CudaAttentionInputs, variant: ForwardVariant, mask: CudaAttentionOptions) {
    const shared = { ...mask, tensorLayout: 'NHD', returnLse: true } as const;
    const lengths = { cuSeqlensQ: STARTS_Q, cuSeqlensK: STARTS_K };
    const name = JSON.stringify(mask);
    const packed = await device.attention(inputs, { ...shared, ...lengths, ...variant });
    for (const [i, [queries, keys]] of LENGTHS.entries()) {
      if (queries === 0) continue;
      const out = await downloaded(packed.out.slice(0, STARTS_Q[i]!, STARTS_Q[i + 1]!));
      const lse = await downloaded(packed.lse!.slice(1, STARTS_Q[i]!, STARTS_Q[i + 1]!));
      if (keys === 0) {
        expect([out.every((x) => x === 0), lse.every((x) => x === -Infinity)], name).toEqual([true, true]);
        continue;
      }
      const alone = await device.attention(aloneOf(inputs, i), { ...shared, ...variant });
      expectSameBits(out, await downloaded(alone.out), `${name}, output of sequence ${i}`);
      expectSameBits(lse, await downloaded(alone.lse!), `${name}, log-sum-exp of sequence ${i}`);
      disposeAll(alone.out, alone.lse);
    }
    const exact = await device.exactAttention(inputs, { ...shared, ...lengths });
    const [out, lse] = [await device.compare(packed.out, exact.out), await device.compare(packed.lse!, exact.lse!)];
    const ceiling = CEILINGS[variant.precision];
    expect(out.odd + lse.odd, name).toBe(0);
    expect(out.relativeL2, name).toBeLessThan(ceiling.relativeL2);
    expect(lse.worst, name).toBeLessThan(ceiling.lse);
    disposeAll(packed.out, packed.lse, exact.out, exact.lse);
  }

  describe.each(HEADS)('$heads heads on $kvHeads, head dims $headDim and $headDimV', (shape) => {
    const { heads, kvHeads, headDim, headDimV } = shape;
    it.each(forwardVariants(Math.max(headDim, headDimV)))('$precision, $kernel', async (variant) => {
      const [queries, keys] = [STARTS_Q.at(-1)!, STARTS_K.at(-1)!];
      const inputs = {
        query: await upload(queries, heads, headDim, 21),
        key: await upload(keys, kvHeads, headDim, 22),
        value: await upload(keys, kvHeads, headDimV, 23),
      };
      for (const mask of MASKS) await expectAsAlone(inputs, variant, mask);
      disposeAll(...Object.values(inputs));
    });
  });
});
