import { type FloatType, fromFloat32 } from '@int-flash/ops';
import { describe, expect, it } from 'vitest';
import type { CudaDevice } from '../src/cuda-device.js';
import { cudaStatus } from '../src/cuda-status.js';
import type { CudaTensor } from '../src/cuda-tensor.js';
import { CEILINGS } from './ceilings.js';
import { forwardVariants } from './forward-variants.js';
import { useGpuDevice } from './gpu-device.js';
import { normalNumbers } from './normal-numbers.js';

// Kernels by their names, every head dimension there is, V as wide as K and not, inputs of every type.
const HEAD_DIMS = Array.from({ length: 32 }, (_, i) => 8 * (i + 1));
const [HEADS, KV_HEADS, QUERIES, KEYS] = [4, 2, 130, 300];

const isHopper = cudaStatus().isa === 'sm_90';
const VARIANTS = forwardVariants(64);

describe.skipIf(!cudaStatus().available)('kernels by name', () => {
  let device: CudaDevice;
  useGpuDevice((opened) => {
    device = opened;
  });

  const groups = VARIANTS.flatMap((variant) => {
    const headDims = HEAD_DIMS.filter((dim) => isHopper || variant.kernel !== 'sorted' || dim <= 128);
    return (['float32', 'float16', 'bfloat16'] as const).map((type) => ({
      ...variant,
      type,
      headDims,
      cases: 2 * headDims.length,
    }));
  });
  it.each(groups)(
    '$kernel, $precision of $type: $cases cases',
    async ({ kernel, precision, type, headDims, cases }) => {
      const pools = await Promise.all([1, 2, 3].map((seed) => pool(type, seed)));
      const failures: string[] = [];
      let done = 0;
      for (const headDim of headDims) {
        const others = headDims.length + 1 - headDim / 8; // the widest with the narrowest
        for (const headDimV of [headDim, 8 * others]) {
          const inputs = {
            query: pools[0]!.view([1, HEADS, QUERIES, headDim]),
            key: pools[1]!.view([1, KV_HEADS, KEYS, headDim]),
            value: pools[2]!.view([1, KV_HEADS, KEYS, headDimV]),
          };
          const options = {
            isCausal: (headDim / 8 + done) % 2 === 0,
            causalAlignment: 'bottom-right',
            returnLse: true,
          } as const;
          const got = await device.attention(inputs, { ...options, kernel, precision });
          const exact = await device.exactAttention(inputs, options);
          const [out, lse] = [await device.compare(got.out, exact.out), await device.compare(got.lse!, exact.lse!)];
          const isGood =
            got.kernel === kernel &&
            out.odd + lse.odd === 0 &&
            out.relativeL2 <= CEILINGS[precision].relativeL2 &&
            out.relativeL2 >= 1e-3 && // a path that forgot to quantize
            lse.worst <= CEILINGS[precision].lse;
          if (!isGood)
            failures.push(
              `${headDim}/${headDimV} by ${got.kernel}: L2 ${out.relativeL2.toFixed(4)} lse ${lse.worst.toFixed(4)} odd ${out.odd}/${lse.odd}`,
            );
          for (const tensor of [got.out, got.lse, exact.out, exact.lse]) tensor?.dispose();
          done++;
        }
      }
      for (const tensor of pools) tensor.dispose();
      expect(failures).toEqual([]);
      expect(done).toBe(cases);
    },
  );

  async function pool(type: FloatType, seed: number): Promise<CudaTensor> {
    const data = normalNumbers(KV_HEADS * KEYS * 256, seed);
    return device.upload({ type, dims: [data.length], data: type === 'float32' ? data : fromFloat32(data, type) });
  }
});
