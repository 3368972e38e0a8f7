import {
  ATTENTION_OPTION_KEYS,
  type AttentionGeometry,
  type CausalAlignment,
  checkChoice,
  checkInteger,
  checkOptions,
  checkSignal,
  describe,
  type FloatType,
  IntFlashError,
  judgeAttention,
  judgeQuantizedAttention,
  judgeTensor,
  type MaskOperand,
  type Precision,
  type RowStrides,
  type TensorJudge,
  type TensorLayout,
  type TensorLike,
} from '@int-flash/ops';
import { type CudaStream, checkStream } from './cuda-stream.js';
import { type CudaDataType, CudaTensor } from './cuda-tensor.js';
import type {
  BufferHandle,
  DeviceHandle,
  NativeAddon,
  NativeOperand,
  NativeRequest,
  NativeSource,
  RecordingHandle,
} from './native-addon.js';
import { withAbortFlag } from './native-error.js';
import { type Baseline, geometryRequest, TYPE_NUMBERS } from './native-request.js';

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
  readonly stream?: CudaStream;
  /** Honoured between kernels. */
  readonly signal?: AbortSignal;
  /** Further runs of the forward kernel and of the quantizers, for timing. */
  readonly repeats?: number;
}

export interface CudaAttentionResult {
  readonly out: CudaTensor;
  readonly lse?: CudaTensor;
  /** Milliseconds of the quantizers, and of each of `repeats` further runs of the forward kernel and of the quantizers, by CUDA events. */
  readonly quantizeMs: number;
  readonly forwardMs: readonly number[];
  readonly quantizeRepeatMs: readonly number[];
}

export interface QuantizeOptions {
  /** 8: codes in [-127, 127]; 4: in [-7, 7], a byte each. */
  readonly bits?: 8 | 4;
  readonly stream?: CudaStream;
  readonly signal?: AbortSignal;
}

/** Row i stands for `codes[i, :] * scales[i]`. */
export interface CudaQuantizedTensor {
  /** int8, the tensor's dims; rows are padded, so its strides are not contiguous. */
  readonly codes: CudaTensor;
  /** float32, the tensor's dims without the last. */
  readonly scales: CudaTensor;
}

/** Where operations run, and who hears of the tensors they make. */
export interface DeviceContext {
  readonly addon: NativeAddon;
  readonly device: DeviceHandle;
  readonly recording?: RecordingHandle;
  readonly made?: (tensor: CudaTensor) => void;
  expectOpen(): void;
}

const CALL_KEYS = ['signal', 'repeats', 'stream'] as const;

export async function attendOnDevice(
  context: DeviceContext,
  inputs: CudaAttentionInputs,
  options: object,
  other?: 'float64' | Baseline,
): Promise<CudaAttentionResult> {
  context.expectOpen();
  const { call, rest } = splitOptions(context, options);
  const plan = judgeAttention(inputs, rest, deviceJudge);
  const operand = (tensor: CudaTensor, strides: RowStrides): NativeOperand => ({
    type: TYPE_NUMBERS[tensor.type as FloatType],
    data: tensor.nativeSource(context.device),
    strides,
  });
  const request = {
    ...geometryRequest(plan, other ?? plan.precision, plan.smoothK),
    query: operand(inputs.query, plan.query.strides),
    key: operand(inputs.key, plan.key.strides),
    value: operand(inputs.value, plan.value.strides),
    mask: maskSource(context, plan.mask, rest.attnMask),
  };
  return run(context, plan, request, call);
}

export async function attendCodesOnDevice(
  context: DeviceContext,
  inputs: CudaQuantizedInputs,
  options: object,
): Promise<CudaAttentionResult> {
  context.expectOpen();
  const { call, rest } = splitOptions(context, options);
  const plan = judgeQuantizedAttention(inputs, rest, deviceJudge);
  const source = (tensor: CudaTensor) => tensor.nativeSource(context.device);
  const operand = (
    codes: CudaTensor,
    strides: RowStrides,
    scale: CudaTensor,
    scaleStrides: RowStrides,
  ): NativeOperand => ({
    type: TYPE_NUMBERS.int8,
    data: source(codes),
    strides,
    scale: source(scale),
    scaleStrides,
  });
  const request = {
    ...geometryRequest(plan, plan.precision, false),
    query: operand(inputs.q, plan.query.strides, inputs.qScale, plan.queryScale.strides),
    key: operand(inputs.k, plan.key.strides, inputs.kScale, plan.keyScale.strides),
    value: operand(inputs.v, plan.value.strides, inputs.vScale, plan.valueScale.strides),
    channelScale: inputs.vChannelScale && source(inputs.vChannelScale),
    channelStrides: plan.valueChannelScale?.strides,
    mask: maskSource(context, plan.mask, rest.attnMask),
  };
  return run(context, plan, request, call);
}

export async function quantizeOnDevice(
  context: DeviceContext,
  tensor: CudaTensor,
  options: object,
): Promise<CudaQuantizedTensor> {
  context.expectOpen();
  const given = checkOptions(options, context.recording ? ['bits'] : ['bits', 'stream', 'signal'], 'options');
  const bits = checkInteger(given.bits, 'bits', 8, 4, 8);
  if (bits !== 8 && bits !== 4) throw new IntFlashError('ERR_ARG_RANGE', `Expected bits to be 8 or 4, got ${bits}`);
  const signal = checkSignal(given.signal);
  const { type, dims, strides } = deviceJudge(tensor, 'tensor', ['float32', 'float16', 'bfloat16']);
  const rank = dims.length;
  if (rank < 2 || rank > 4)
    throw new IntFlashError('ERR_SHAPE', `Expected tensor of rank 2 to 4, got dims [${dims.join(', ')}]`);
  const dim = dims[rank - 1]!;
  if (dim < 8 || dim > 256 || dim % 8 !== 0)
    throw new IntFlashError('ERR_UNSUPPORTED', `Expected rows whose length is a multiple of 8 up to 256, got ${dim}`);
  if (strides[rank - 1] !== 1)
    throw new IntFlashError(
      'ERR_UNSUPPORTED',
      `Expected the last axis to be contiguous (stride 1), got stride ${strides[rank - 1]}`,
    );
  const outer = (axis: number, values: readonly number[], missing: number) => (axis < 0 ? missing : values[axis]!);
  const request = {
    type: TYPE_NUMBERS[type as FloatType],
    data: tensor.nativeSource(context.device),
    batch: outer(rank - 4, dims, 1),
    heads: outer(rank - 3, dims, 1),
    tokens: dims[rank - 2]!,
    dim,
    strides: {
      batch: outer(rank - 4, strides, 0),
      head: outer(rank - 3, strides, 0),
      token: strides[rank - 2]!,
    },
    levels: bits === 8 ? 127 : 7,
    stream: checkStream(given.stream, context.device),
    recording: context.recording,
  };
  for (const name of ['batch', 'heads'] as const)
    if (request[name] > 65_535)
      throw new IntFlashError(
        'ERR_UNSUPPORTED',
        `Expected leading axes of at most 65535 on CUDA, got ${request[name]}`,
      );
  const { codes, scales } = await withAbortFlag(context.addon, signal, (abortFlag) =>
    context.addon.quantize(context.device, { ...request, abortFlag }),
  );
  const rows = dims.slice(0, -1);
  return {
    codes: wrap(context, codes, 'int8', dims, paddedStrides(dims)),
    scales: wrap(context, scales, 'float32', rows),
  };
}

function splitOptions(context: DeviceContext, options: object) {
  const known = context.recording ? ATTENTION_OPTION_KEYS : [...ATTENTION_OPTION_KEYS, ...CALL_KEYS];
  const { signal, repeats, stream, ...rest } = checkOptions(options, known, 'options');
  const call = {
    signal: checkSignal(signal),
    repeats: checkInteger(repeats, 'repeats', 0, 0, 10_000),
    stream: checkStream(stream, context.device),
  };
  return { call, rest };
}

async function run(
  context: DeviceContext,
  plan: AttentionGeometry,
  request: Omit<NativeRequest, 'repeats' | 'stream' | 'recording' | 'abortFlag'>,
  { signal, repeats, stream }: ReturnType<typeof splitOptions>['call'],
): Promise<CudaAttentionResult> {
  const answer = await withAbortFlag(context.addon, signal, (abortFlag) =>
    context.addon.attention(context.device, {
      ...request,
      repeats,
      stream,
      recording: context.recording,
      abortFlag,
    }),
  );
  return {
    out: wrap(context, answer.out!, 'float32', plan.outDims),
    ...(answer.lse && { lse: wrap(context, answer.lse, 'float32', plan.lseDims) }),
    quantizeMs: answer.quantizeMs,
    forwardMs: answer.forwardMs,
    quantizeRepeatMs: answer.quantizeRepeatMs,
  };
}

function wrap(
  { addon, device, made }: DeviceContext,
  buffer: BufferHandle,
  type: CudaDataType,
  dims: readonly number[],
  strides?: readonly number[],
): CudaTensor {
  const tensor = new CudaTensor({ addon, device, buffer, disposed: false }, type, dims, {
    ...(strides && { strides }),
    owner: made ? 'graph' : 'tensor',
  });
  made?.(tensor);
  return tensor;
}

/** What a judge may know of a tensor in device memory: everything but its numbers. Masks may lie in host memory. */
const deviceJudge: TensorJudge = (value, name, types) => {
  if (name === 'attnMask' && !(value instanceof CudaTensor)) return judgeTensor(value, name, types);
  if (!(value instanceof CudaTensor))
    throw new IntFlashError('ERR_ARG_TYPE', `Expected ${name} to be a CudaTensor, got ${describe(value)}`);
  const type = types ? checkChoice(value.type, `${name}.type`, types, value.type) : value.type;
  return { type, dims: value.dims, strides: value.strides, data: new Uint8Array(0) };
};

function maskSource(context: DeviceContext, mask: MaskOperand | undefined, given: unknown): NativeRequest['mask'] {
  if (!mask) return undefined;
  const data: NativeSource = given instanceof CudaTensor ? given.nativeSource(context.device) : mask.data;
  return { data, isFloat: mask.type === 'float32', ...mask.strides };
}

/** Rows as native/quantize_operation.h lays them out: padded to 64, 128 or 256 bytes. */
function paddedStrides(dims: readonly number[]): number[] {
  const dim = dims[dims.length - 1]!;
  const strides = new Array<number>(dims.length).fill(1);
  let step = dim <= 64 ? 64 : dim <= 128 ? 128 : 256;
  for (let axis = dims.length - 2; axis >= 0; axis--) {
    strides[axis] = step;
    step *= Math.max(dims[axis]!, 1);
  }
  return strides;
}
