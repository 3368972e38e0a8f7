import { checkChoice, describe, IntFlashError, judgeTensor, type TensorJudge } from '@int-flash/ops';
import { CudaTensor } from './cuda-tensor.js';
import type { BufferHandle, DeviceHandle, NativeAddon, RecordingHandle } from './native-addon.js';
import type { CudaDataType } from './strided-memory.js';

/** Where operations run, and who hears of the tensors they make. */
export interface DeviceContext {
  readonly addon: NativeAddon;
  readonly device: DeviceHandle;
  readonly recording?: RecordingHandle;
  readonly made?: (tensor: CudaTensor) => void;
  expectOpen(): void;
}

/** A tensor that an operation made. */
export function madeTensor(
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
export const deviceJudge: TensorJudge = (value, name, types) => {
  if (name === 'attnMask' && !(value instanceof CudaTensor)) return judgeTensor(value, name, types);
  if (!(value instanceof CudaTensor))
    throw new IntFlashError('ERR_ARG_TYPE', `Expected ${name} to be a CudaTensor, got ${describe(value)}`);
  const type = types ? checkChoice(value.type, `${name}.type`, types, value.type) : value.type;
  return { type, dims: value.dims, strides: value.strides, data: new Uint8Array(0) };
};
