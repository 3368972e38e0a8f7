import {
  ATTENTION_OPTION_KEYS,
  type AttentionGeometry,
  type CausalAlignment,
  checkChoice,
  checkInteger,
  checkOptions,
  checkSignal,
  type FloatType,
  judgeAttention,
  judgeHalfQuantizedAttention,
  judgeQuantizedAttention,
  type MaskOperand,
  type Precision,
  type RowStrides,
  readArguments,
  type TensorLayout,
  type TensorLike,
} from '@int-flash/ops';
import { type CudaStream, checkStream } from './cuda-stream.js';
import { CudaTensor } from './cuda-tensor.js';
import { type DeviceContext, deviceJudge, madeTensor } from './device-context.js';
import type { NativeOperand, NativeRequest, NativeSource } from './native-addon.js';
import { withAbortFlag } from './native-error.js';
import { type Baseline, type CudaKernel, geometryRequest, KERNELS, TYPE_NUMBERS } from './native-request.js';

export interface CudaAttentionInputs {
  readonly query: CudaTensor;
  readonly key: CudaTensor;
  readonly value: CudaTensor;
}

/** INT8 codes and their scales, shaped as `judgeQuantizedAttention` says. */
export interface CudaQuantizedInputs {
  readonly q: CudaTensor;
  readonly k: CudaTensor;
  readonly v: CudaTensor;
  readonly qScale: CudaTensor;
  readonly kScale: CudaTensor;
  readonly vScale: CudaTensor;
  readonly vChannelScale?: CudaTensor;
}

/** `half-int8` on codes: V in floats, which have no scales. */
export interface CudaHalfQuantizedInputs {
  readonly q: CudaTensor;
  readonly k: CudaTensor;
  readonly v: CudaTensor;
  readonly qScale: CudaTensor;
  readonly kScale: CudaTensor;
}

export type CudaQuantizedOptions = Omit<CudaAttentionOptions, 'smoothK'>;

export interface CudaAttentionOptions {
  readonly precision?: Precision;
  readonly isCausal?: boolean;
  readonly causalAlignment?: CausalAlignment;
  readonly scale?: number;
  /** On this device, or in host memory. */
  readonly attnMask?: CudaTensor | TensorLike;
  readonly tensorLayout?: TensorLayout;
  readonly enableGqa?: boolean;
  readonly windowSize?: readonly number[];
  readonly softcap?: number;
  readonly returnLse?: boolean;
  readonly smoothK?: boolean;
  readonly cuSeqlensQ?: ArrayLike<number>;
  readonly cuSeqlensK?: ArrayLike<number>;
  readonly maxSeqlenQ?: number;
  readonly maxSeqlenK?: number;
  /** Of `out`, float32 when absent; rounded half to even from float32 at the end. */
  readonly outType?: FloatType;
  readonly stream?: CudaStream;
  /**
   * Who computes full-int8 and half-int8 of floats. `hopper`: kernels for compute capability 9.0. `sorted`: the same
   * arithmetic on every GPU, full-int8 alone, up to head dimension 128 where a block has less than 200 KB of shared memory. Both without softcap and
   * mask. `portable`: a scale a key, anything. `auto`: the first of these that can. One that is named and cannot is `ERR_UNSUPPORTED`.
   * docs/arithmetic.md has all.
   */
  readonly kernel?: CudaKernel;
  /** Honoured between kernels. */
  readonly signal?: AbortSignal;
  /** Further runs of the forward kernel and of the quantizers, for timing. */
  readonly repeats?: number;
}

export interface CudaAttentionResult {
  readonly out: CudaTensor;
  readonly lse?: CudaTensor;
  /** Which kernels answered. */
  readonly kernel: Exclude<CudaKernel, 'auto'>;
  /** Milliseconds of the quantizers, and of each of `repeats` further runs of the forward kernel and of the quantizers, by CUDA events. */
  readonly quantizeMs: number;
  readonly forwardMs: readonly number[];
  readonly quantizeRepeatMs: readonly number[];
}

const CALL_KEYS = ['signal', 'repeats', 'stream'] as const;
const DEVICE_KEYS = ['kernel', 'outType'] as const;
const OUT_TYPES = ['float32', 'float16', 'bfloat16'] as const satisfies readonly FloatType[];

export async function attendOnDevice(
  context: DeviceContext,
  inputs: CudaAttentionInputs,
  options: object,
  other?: 'float64' | Baseline,
): Promise<CudaAttentionResult> {
  context.expectOpen();
  return run(
    context,
    readArguments(() => attentionCall(context, inputs, options, other)),
  );
}

export async function attendCodesOnDevice(
  context: DeviceContext,
  inputs: CudaQuantizedInputs | CudaHalfQuantizedInputs,
  options: object,
): Promise<CudaAttentionResult> {
  context.expectOpen();
  return run(
    context,
    readArguments(() => codesCall(context, inputs, options)),
  );
}

/** An attention call, judged. */
interface Call {
  readonly plan: AttentionGeometry;
  readonly request: Omit<NativeRequest, 'recording' | 'abortFlag'>;
  readonly signal: AbortSignal | undefined;
}

function attentionCall(
  context: DeviceContext,
  inputs: CudaAttentionInputs,
  options: object,
  other: 'float64' | Baseline | undefined,
): Call {
  const { signal, call, kernel, rest } = splitOptions(context, options);
  const plan = judgeAttention(inputs, rest, deviceJudge);
  const request = {
    ...geometryRequest(plan, other ?? plan.precision, plan.smoothK),
    ...call,
    kernel: KERNELS.indexOf(kernel),
    query: floatOperand(context, inputs.query, plan.query.strides),
    key: floatOperand(context, inputs.key, plan.key.strides),
    value: floatOperand(context, inputs.value, plan.value.strides),
    mask: maskSource(context, plan.mask, rest.attnMask),
  };
  return { plan, request, signal };
}

function codesCall(
  context: DeviceContext,
  inputs: CudaQuantizedInputs | CudaHalfQuantizedInputs,
  options: object,
): Call {
  const { signal, call, kernel, rest } = splitOptions(context, options);
  const { plan, value, channelScale, channelStrides } =
    rest.precision === 'half-int8'
      ? halfCodes(context, inputs as CudaHalfQuantizedInputs, rest)
      : allCodes(context, inputs as CudaQuantizedInputs, rest);
  const request = {
    ...geometryRequest(plan, plan.precision, false),
    ...call,
    kernel: KERNELS.indexOf(kernel),
    query: codeOperand(context, inputs.q, plan.query.strides, inputs.qScale, plan.queryScale.strides),
    key: codeOperand(context, inputs.k, plan.key.strides, inputs.kScale, plan.keyScale.strides),
    value,
    channelScale,
    channelStrides,
    mask: maskSource(context, plan.mask, rest.attnMask),
  };
  return { plan, request, signal };
}

function allCodes(context: DeviceContext, inputs: CudaQuantizedInputs, options: object) {
  const plan = judgeQuantizedAttention(inputs, options, deviceJudge);
  return {
    plan,
    value: codeOperand(context, inputs.v, plan.value.strides, inputs.vScale, plan.valueScale.strides),
    channelScale: inputs.vChannelScale?.nativeSource(context.device),
    channelStrides: plan.valueChannelScale?.strides,
  };
}

function halfCodes(context: DeviceContext, inputs: CudaHalfQuantizedInputs, options: object) {
  const plan = judgeHalfQuantizedAttention(inputs, options, deviceJudge);
  return {
    plan,
    value: floatOperand(context, inputs.v, plan.value.strides),
    channelScale: undefined,
    channelStrides: undefined,
  };
}

function floatOperand(context: DeviceContext, tensor: CudaTensor, strides: RowStrides): NativeOperand {
  return { type: TYPE_NUMBERS[tensor.type as FloatType], data: tensor.nativeSource(context.device), strides };
}

function codeOperand(
  context: DeviceContext,
  codes: CudaTensor,
  strides: RowStrides,
  scale: CudaTensor,
  scaleStrides: RowStrides,
): NativeOperand {
  return {
    type: TYPE_NUMBERS.int8,
    data: codes.nativeSource(context.device),
    strides,
    scale: scale.nativeSource(context.device),
    scaleStrides,
  };
}

function splitOptions(context: DeviceContext, options: object) {
  const known = [...ATTENTION_OPTION_KEYS, ...DEVICE_KEYS, ...(context.recording ? [] : CALL_KEYS)];
  const { signal, repeats, stream, kernel, outType, ...rest } = checkOptions(options, known, 'options');
  const call = {
    outType: TYPE_NUMBERS[checkChoice(outType, 'outType', OUT_TYPES, 'float32')],
    repeats: checkInteger(repeats, 'repeats', 0, 0, 10_000),
    stream: checkStream(stream, context.device),
  };
  return { signal: checkSignal(signal), call, kernel: checkChoice(kernel, 'kernel', KERNELS, 'auto'), rest };
}

async function run(context: DeviceContext, { plan, request, signal }: Call): Promise<CudaAttentionResult> {
  const answer = await withAbortFlag(context.addon, signal, (abortFlag) =>
    context.addon.attention(context.device, { ...request, recording: context.recording, abortFlag }),
  );
  return {
    out: madeTensor(context, answer.out!, OUT_TYPES[request.outType ?? 0]!, plan.outDims),
    ...(answer.lse && { lse: madeTensor(context, answer.lse, 'float32', plan.lseDims) }),
    kernel: KERNELS[answer.kernel] as Exclude<CudaKernel, 'auto'>,
    quantizeMs: answer.quantizeMs,
    forwardMs: answer.forwardMs,
    quantizeRepeatMs: answer.quantizeRepeatMs,
  };
}

function maskSource(context: DeviceContext, mask: MaskOperand | undefined, given: unknown): NativeRequest['mask'] {
  if (!mask) return undefined;
  const data: NativeSource = given instanceof CudaTensor ? given.nativeSource(context.device) : mask.data;
  return { data, isFloat: mask.type === 'float32', ...mask.strides };
}
