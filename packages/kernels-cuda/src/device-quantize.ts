import {
  checkBoolean,
  checkChoice,
  checkInteger,
  checkOptions,
  checkSignal,
  type FloatType,
  IntFlashError,
  readArguments,
} from '@int-flash/ops';
import { type CudaStream, checkStream } from './cuda-stream.js';
import type { CudaTensor } from './cuda-tensor.js';
import { type DeviceContext, madeTensor } from './device-context.js';
import { withAbortFlag } from './native-error.js';
import { TYPE_NUMBERS } from './native-request.js';
import { judgeRows } from './tensor-rows.js';

/** As native/quantize_request.h numbers them. */
const GRANULARITIES = ['token', 'channel', 'tensor'] as const;
/** What has a scale of its own: each token, each channel of a [batch, head], or the whole tensor. */
export type QuantizeGranularity = (typeof GRANULARITIES)[number];

export interface QuantizeOptions {
  /** 8 (the default): codes in [-127, 127]; 4: in [-7, 7], a byte each, with granularity `token` only (else `ERR_UNSUPPORTED`). */
  readonly bits?: 8 | 4;
  /**
   * `token` (the default) has the bits of quant's `quantizePerTokenInt8` or `encodePerTokenInt4`; `channel`, over all tokens of its [batch, head],
   * those of `quantizePerChannelInt8`; `tensor` those of `quantizePerTensorInt8`. Both, and `smoothK`, take fewer than 2^30 heads.
   */
  readonly granularity?: QuantizeGranularity;
  /**
   * Subtracts each channel's mean over the tokens of its [batch, head] first, as quant's `smoothK` does, and returns it as `means`. Off when absent;
   * with granularity `token` only (else `ERR_UNSUPPORTED`). Attention over such keys is the same but for its log-sum-exp, which lacks
   * scale · (q · mean), and for a softcap, which sees the shift: leave it off there.
   */
  readonly smoothK?: boolean;
  /** The device's own when absent. */
  readonly stream?: CudaStream;
  /** Honoured between kernels. */
  readonly signal?: AbortSignal;
}

/**
 * Element [.., i, d] stands for `codes[.., i, d]` times the scale of its token, its channel or the tensor, plus `means[.., d]` where there are means.
 * `quantizedAttention` takes Q and K with a scale a token.
 */
export interface CudaQuantizedTensor {
  /** int8, the tensor's dims; rows are padded, so its strides are not contiguous. */
  readonly codes: CudaTensor;
  /** float32, > 0. A scale a token: the tensor's dims without the last; a channel: without the last but one, [.., dim]; the tensor: []. */
  readonly scales: CudaTensor;
  /** float32, the tensor's dims without the last but one, [.., dim]; with `smoothK` only. */
  readonly means?: CudaTensor;
}

export async function quantizeOnDevice(
  context: DeviceContext,
  tensor: CudaTensor,
  options: object,
): Promise<CudaQuantizedTensor> {
  context.expectOpen();
  const { dims, granularity, request, signal } = readArguments(() => quantizeCall(context, tensor, options));
  const { codes, scales, means } = await withAbortFlag(context.addon, signal, (abortFlag) =>
    context.addon.quantize(context.device, { ...request, recording: context.recording, abortFlag }),
  );
  const channels = [...dims.slice(0, -2), dims[dims.length - 1]!];
  const scaleDims = { token: dims.slice(0, -1), channel: channels, tensor: [] }[granularity];
  return {
    codes: madeTensor(context, codes, 'int8', dims, paddedStrides(dims)),
    scales: madeTensor(context, scales, 'float32', scaleDims),
    ...(means && { means: madeTensor(context, means, 'float32', channels) }),
  };
}

function quantizeCall(context: DeviceContext, tensor: CudaTensor, options: object) {
  const own = ['bits', 'granularity', 'smoothK'];
  const given = checkOptions(options, context.recording ? own : [...own, 'stream', 'signal'], 'options');
  const bits = checkInteger(given.bits, 'bits', 8, 4, 8);
  if (bits !== 8 && bits !== 4) throw new IntFlashError('ERR_ARG_RANGE', `Expected bits to be 8 or 4, got ${bits}`);
  const granularity = checkChoice(given.granularity, 'granularity', GRANULARITIES, 'token');
  const smoothK = checkBoolean(given.smoothK, 'smoothK', false);
  if (granularity !== 'token' && (bits === 4 || smoothK))
    throw new IntFlashError(
      'ERR_UNSUPPORTED',
      `Expected granularity 'token' with ${smoothK ? 'smoothK' : 'bits 4'}, got '${granularity}'`,
    );
  const signal = checkSignal(given.signal);
  const { type, dims, request } = judgeRows(context, tensor, ['float32', 'float16', 'bfloat16']);
  const stream = checkStream(given.stream, context.device);
  return {
    dims,
    granularity,
    request: {
      ...request,
      type: TYPE_NUMBERS[type as FloatType],
      levels: bits === 8 ? 127 : 7,
      granularity: GRANULARITIES.indexOf(granularity),
      smoothK,
      stream,
    },
    signal,
  };
}

/** Rows as native/quantize_operation.h and native/two_pass_operation.h lay them out: padded to 64, 128 or 256 bytes. */
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
