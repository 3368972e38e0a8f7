import { checkInteger, checkOptions, checkSignal, type FloatType, IntFlashError, readArguments } from '@int-flash/ops';
import { type CudaStream, checkStream } from './cuda-stream.js';
import type { CudaTensor } from './cuda-tensor.js';
import { type DeviceContext, deviceJudge, madeTensor } from './device-context.js';
import { withAbortFlag } from './native-error.js';
import { TYPE_NUMBERS } from './native-request.js';

/** As native/read_request.cc has them. */
const MAX_BATCH = 2 ** 20;
const MAX_HEADS = 2 ** 30;

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

export async function quantizeOnDevice(
  context: DeviceContext,
  tensor: CudaTensor,
  options: object,
): Promise<CudaQuantizedTensor> {
  context.expectOpen();
  const { dims, request, signal } = readArguments(() => quantizeCall(context, tensor, options));
  const { codes, scales } = await withAbortFlag(context.addon, signal, (abortFlag) =>
    context.addon.quantize(context.device, { ...request, recording: context.recording, abortFlag }),
  );
  return {
    codes: madeTensor(context, codes, 'int8', dims, paddedStrides(dims)),
    scales: madeTensor(context, scales, 'float32', dims.slice(0, -1)),
  };
}

function quantizeCall(context: DeviceContext, tensor: CudaTensor, options: object) {
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
  const [batch, heads] = [dims[rank - 4] ?? 1, dims[rank - 3] ?? 1];
  if (batch > MAX_BATCH || batch * heads > MAX_HEADS)
    throw new IntFlashError(
      'ERR_UNSUPPORTED',
      `Expected a first axis of at most 2^20 and 2^30 heads on CUDA, got leading axes ${batch} and ${heads}`,
    );
  const request = {
    type: TYPE_NUMBERS[type as FloatType],
    data: tensor.nativeSource(context.device),
    batch,
    heads,
    tokens: dims[rank - 2]!,
    dim,
    strides: { batch: strides[rank - 4] ?? 0, head: strides[rank - 3] ?? 0, token: strides[rank - 2]! },
    levels: bits === 8 ? 127 : 7,
    stream: checkStream(given.stream, context.device),
  };
  return { dims, request, signal };
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
