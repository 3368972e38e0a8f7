import { fromFloat32, IntFlashError, judgeAttention } from '@int-flash/ops';
import { makeInputs, relativeL2, softmaxAttention } from '@int-flash/reference';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type CudaDevice, openCudaDevice } from '../src/cuda-device.js';
import { cudaStatus } from '../src/cuda-status.js';
import type { CudaTensor } from '../src/cuda-tensor.js';
import type { CudaAttentionOptions } from '../src/device-attention.js';
import { CEILINGS } from './ceilings.js';
import { forwardVariants } from './forward-variants.js';
import { disposeAll, downloaded, uploadInputs } from './gpu-device.js';
import { normalNumbers } from './normal-numbers.js';
import { expectSameBits } from './same-bits.js';

// Every combination below against float64 on the device, from raw float inputs. The float64 kernel is itself held to the
// TypeScript oracle by the first test.
const LENGTHS = [
  [1, 1],
  [64, 128],
  [128, 192],
  [256, 256],
  [239, 1],
  [799, 3],
  [113, 203],
  [113, 128],
  [128, 217],
  [113, 211],
  [108, 256],
  [256, 512],
  [384, 256],
  [640, 128],
  [512, 256],
  [1024, 1024],
  [1023, 1024],
  [1024, 1023],
  [2049, 2177],
  [1, 4224],
] as const;
const HEAD_DIMS = [16, 32, 64, 80, 96, 128, 256];
const HEADS = { MHA: [2, 2], GQA: [4, 2], MQA: [2, 1] } as const;
const TYPES = ['float32', 'bfloat16'] as const;
const MAX_ELEMENTS = 2 * 2 * 4224 * 256; // the largest of q [2, 4, 2049, 256] and k [2, 2, 4224, 256]

describe.skipIf(!cudaStatus().available)('the INT8 forward', () => {
  let device: CudaDevice;
  const pools = new Map<string, CudaTensor[]>();
  beforeAll(async () => {
    device = openCudaDevice();
    const all = normalNumbers(3 * MAX_ELEMENTS, 42);
    const numbers = [0, 1, 2].map((i) => all.subarray(i * MAX_ELEMENTS, (i + 1) * MAX_ELEMENTS));
    for (const type of TYPES) {
      const upload = (data: Float32Array) =>
        device.upload({ type, dims: [MAX_ELEMENTS], data: type === 'float32' ? data : fromFloat32(data, type) });
      pools.set(type, await Promise.all(numbers.map(upload)));
    }
  }, 60_000);
  afterAll(async () => {
    for (const tensors of pools.values()) for (const tensor of tensors) tensor.dispose();
    expect(device.liveBytes()).toBe(0);
    await device[Symbol.asyncDispose]();
  });

  it.each<CudaAttentionOptions>([
    {},
    { isCausal: true, causalAlignment: 'bottom-right' },
    { windowSize: [30, 10] },
    { softcap: 3 },
  ])('has a float64 oracle that agrees with TypeScript’s: %o', async (options) => {
    const inputs = makeInputs(
      'normal',
      { batch: 2, heads: 4, kvHeads: 2, queries: 90, keys: 301, headDim: 72, headDimV: 40 },
      31,
    );
    const on = await uploadInputs(device, inputs);
    const { out, lse } = await device.exactAttention(on, { ...options, returnLse: true });
    const expected = softmaxAttention(judgeAttention(inputs, { ...options, returnLse: true }));
    expect(relativeL2((await out.download()).data as Float32Array, expected.out)).toBeLessThan(1e-7);
    const got = (await lse!.download()).data as Float32Array;
    expect(Math.max(...got.map((x, i) => Math.abs(x - expected.lse[i]!)))).toBeLessThan(1e-6);
    disposeAll(...Object.values(on), out, lse);
  });

  // The kernel on sorted tiles reads what Hopper's reads, which has them all: one head layout will do.
  const variantsOf = (headDim: number, layout: string) =>
    forwardVariants(headDim).filter(({ kernel }) => kernel !== 'sorted' || layout === 'GQA');
  const casesOf = (headDim: number) =>
    Object.keys(HEADS).reduce((sum, layout) => sum + 2 * LENGTHS.length * variantsOf(headDim, layout).length, 0);
  const groups = TYPES.flatMap((type) =>
    HEAD_DIMS.flatMap((headDim) =>
      [false, true].map((isCausal) => ({ type, headDim, isCausal, cases: casesOf(headDim) })),
    ),
  );
  // 28 groups x 2 windows x 20 length pairs x 19 variants of 3 head layouts = 21,280 cases
  it.each(groups)(
    '$type, head dim $headDim, causal $isCausal: $cases cases',
    async ({ type, headDim, isCausal, cases: expected }) => {
      const [q, k, v] = pools.get(type)!;
      const failures: string[] = [];
      let cases = 0;
      for (const [layout, [heads, kvHeads]] of Object.entries(HEADS)) {
        for (const windowed of [false, true]) {
          for (const [queries, keys] of LENGTHS) {
            const view = (pool: CudaTensor, count: number, length: number) => pool.view([2, count, length, headDim]);
            const inputs = {
              query: view(q!, heads, queries),
              key: view(k!, kvHeads, keys),
              value: view(v!, kvHeads, keys),
            };
            const options: CudaAttentionOptions = {
              isCausal,
              causalAlignment: 'bottom-right',
              windowSize: windowed ? [Math.ceil(keys / 3), isCausal ? -1 : Math.ceil(keys / 5)] : [-1, -1],
              returnLse: true,
            };
            const exact = await device.exactAttention(inputs, options);
            for (const variant of variantsOf(headDim, layout)) {
              const { precision, kernel } = variant;
              const name = `${layout} ${queries}x${keys} window ${windowed} ${precision} ${kernel}`;
              cases++;
              try {
                const got = await device.attention(inputs, { ...options, ...variant });
                const [out, lse] = await Promise.all([
                  device.compare(got.out, exact.out),
                  device.compare(got.lse!, exact.lse!),
                ]);
                const ceiling = CEILINGS[precision];
                const tooGood = keys >= 64 && queries <= keys && out.relativeL2 < 1e-3; // a path that forgot to quantize
                if (
                  out.odd + lse.odd > 0 ||
                  !(out.relativeL2 <= ceiling.relativeL2) ||
                  !(out.worst <= ceiling.element) ||
                  !(lse.worst <= ceiling.lse) ||
                  tooGood
                ) {
                  failures.push(
                    `${name}: L2 ${out.relativeL2.toFixed(4)} worst ${out.worst.toFixed(3)} lse ${lse.worst.toFixed(4)} odd ${out.odd}/${lse.odd}`,
                  );
                }
                got.out.dispose();
                got.lse!.dispose();
              } catch (error) {
                failures.push(
                  `${name}: ${error instanceof IntFlashError ? error.code : ''} ${(error as Error).message}`,
                );
              }
            }
            exact.out.dispose();
            exact.lse!.dispose();
          }
        }
      }
      expect(failures.slice(0, 12), `${failures.length} of ${cases} cases`).toEqual([]);
      expect(cases).toBe(expected);
    },
    300_000,
  );

  it('gives the same bits 300 times', async () => {
    const [q, k, v] = pools.get('float32')!;
    const inputs = {
      query: q!.view([15, 4, 300, 64]),
      key: k!.view([15, 2, 517, 64]),
      value: v!.view([15, 2, 517, 64]),
    };
    for (const variant of forwardVariants(64)) {
      const first = await device.attention(inputs, { ...variant, isCausal: true });
      for (let i = 0; i < 50; i++) {
        const again = await device.attention(inputs, { ...variant, isCausal: true });
        expect(await device.compare(again.out, first.out)).toEqual({ relativeL2: 0, worst: 0, odd: 0 });
        again.out.dispose();
      }
      first.out.dispose();
    }
  }, 60_000);

  it('gives a row the same bits in any batch', async () => {
    const [q, k, v] = pools.get('float32')!;
    const views = (batch: number) => ({
      query: q!.view([batch, 4, 200, 64]),
      key: k!.view([batch, 2, 333, 64]),
      value: v!.view([batch, 2, 333, 64]),
    });
    for (const variant of forwardVariants(64)) {
      const alone = await device.attention(views(1), variant);
      const among = await device.attention(views(32), variant);
      expectSameBits(await downloaded(among.out.slice(0, 0, 1)), await downloaded(alone.out));
      alone.out.dispose();
      among.out.dispose();
    }
  });
});
