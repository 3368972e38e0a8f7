import type { Precision } from '@int-flash/ops';
import { cudaStatus } from '../src/cuda-status.js';
import type { CudaKernel } from '../src/native-request.js';

export interface ForwardVariant {
  readonly precision: Exclude<Precision, 'fp32'>;
  readonly kernel: CudaKernel;
}

const isHopper = cudaStatus().isa === 'sm_90';

/** Hopper's kernels where they exist, the others beside them. */
export function forwardVariants(headDim: number): ForwardVariant[] {
  const hopper = (precision: ForwardVariant['precision']): ForwardVariant => ({
    precision,
    kernel: isHopper ? 'hopper' : 'portable',
  });
  return [
    hopper('full-int8'),
    ...(isHopper || headDim <= 128 ? ([{ precision: 'full-int8', kernel: 'sorted' }] as const) : []),
    { precision: 'full-int8', kernel: 'portable' },
    hopper('half-int8'),
    { precision: 'half-int8', kernel: 'portable' },
    { precision: 'paper-int8', kernel: 'portable' },
    { precision: 'int4-qk', kernel: 'portable' },
  ];
}
