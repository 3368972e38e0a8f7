import { checkInteger, checkOptions, checkSignal, type FloatType, IntFlashError, readArguments } from '@int-flash/ops';
import { type CudaStream, checkStream } from './cuda-stream.js';
import type { CudaTensor } from './cuda-tensor.js';
import { type DeviceContext, madeTensor } from './device-context.js';
import { withAbortFlag } from './native-error.js';
import { TYPE_NUMBERS } from './native-request.js';
import { judgeRows } from './tensor-rows.js';

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
  const { type, dims, request } = judgeRows(context, tensor, ['float32', 'float16', 'bfloat16']);
  const stream = checkStream(given.stream, context.device);
  const levels = bits === 8 ? 127 : 7;
  return { dims, request: { ...request, type: TYPE_NUMBERS[type as FloatType], levels, stream }, signal };
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
