import type {
  AttentionGeometry,
  AttentionPlan,
  CodeOperand,
  FloatOperand,
  MaskOperand,
  Precision,
  QuantizedAttentionPlan,
  RowStrides,
} from '@int-flash/ops';
import type { NativeOperand, NativeRequest } from './native-addon.js';

/** What INT8 is measured against on the device; `flash-d` is float16 without the division at the end. */
export const BASELINES = ['fp16', 'bf16', 'fp8', 'flash-d'] as const;
export type Baseline = (typeof BASELINES)[number];

/** As native/attention.h numbers them. `float64` is the oracle's. */
const PRECISION_NUMBERS: Record<Precision | 'float64' | Baseline, number> = {
  'full-int8': 0,
  'half-int8': 1,
  'paper-int8': 2,
  'int4-qk': 3,
  fp32: 4,
  float64: 5,
  fp16: 6,
  bf16: 7,
  fp8: 8,
  'flash-d': 9,
};
/** Who computes full-int8 and half-int8 of floats, as native/attention.h numbers them: `auto` takes the last of these that can. */
export const KERNELS = ['auto', 'portable', 'sorted', 'hopper'] as const;
export type CudaKernel = (typeof KERNELS)[number];
export const TYPE_NUMBERS = { float32: 0, float16: 1, bfloat16: 2, int8: 3 } as const;

/** The part of a request that does not depend on where the numbers live. */
export function geometryRequest(
  geometry: AttentionGeometry,
  precision: Precision | 'float64' | Baseline,
  smoothK: boolean,
) {
  const { sequences } = geometry;
  const spans = new Float64Array(sequences.length * 4);
  sequences.forEach(({ qStart, qLen, kStart, kLen }, s) => {
    spans.set([qStart, qLen, kStart, kLen], s * 4);
  });
  return {
    precision: PRECISION_NUMBERS[precision],
    smoothK,
    heads: geometry.heads,
    kvHeads: geometry.kvHeads,
    headDim: geometry.headDim,
    headDimV: geometry.headDimV,
    sequences: spans,
    scale: geometry.scale,
    softcap: geometry.softcap,
    windowLeft: geometry.windowLeft,
    windowRight: geometry.windowRight,
    bottomRight: geometry.diagonal === 'bottom-right',
    outStrides: geometry.outStrides,
    lseStrides: geometry.lseStrides,
    outElements: elements(geometry.outDims),
    lseElements: geometry.returnLse ? elements(geometry.lseDims) : 0,
    returnLse: geometry.returnLse,
  };
}

/** Attention on host memory. */
export function hostRequest(plan: AttentionPlan, kernel: CudaKernel): NativeRequest {
  return {
    ...geometryRequest(plan, plan.precision, plan.smoothK),
    kernel: KERNELS.indexOf(kernel),
    query: floatOperand(plan.query),
    key: floatOperand(plan.key),
    value: floatOperand(plan.value),
    mask: maskOperand(plan.mask),
  };
}

/** Attention on the caller's codes in host memory. */
export function hostCodesRequest(plan: QuantizedAttentionPlan, kernel: CudaKernel): NativeRequest {
  return {
    ...geometryRequest(plan, plan.precision, false),
    kernel: KERNELS.indexOf(kernel),
    query: codeOperand(plan.query, plan.queryScale),
    key: codeOperand(plan.key, plan.keyScale),
    value: codeOperand(plan.value, plan.valueScale),
    channelScale: plan.valueChannelScale?.data,
    channelStrides: plan.valueChannelScale?.strides,
    mask: maskOperand(plan.mask),
  };
}

function floatOperand(operand: FloatOperand): NativeOperand {
  return { type: TYPE_NUMBERS[operand.type], data: operand.data, strides: operand.strides };
}

function codeOperand(
  operand: CodeOperand,
  scale: { readonly data: Float32Array; readonly strides: RowStrides },
): NativeOperand {
  return {
    type: TYPE_NUMBERS.int8,
    data: operand.data,
    strides: operand.strides,
    scale: scale.data,
    scaleStrides: scale.strides,
  };
}

function maskOperand(mask: MaskOperand | undefined): NativeRequest['mask'] {
  return mask && { data: mask.data, isFloat: mask.type === 'float32', ...mask.strides };
}

function elements(dims: readonly number[]): number {
  return dims.reduce((product, dim) => product * dim, 1);
}
