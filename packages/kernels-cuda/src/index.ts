export { type BackendStatus, type ErrorCode, IntFlashError } from '@int-flash/ops';
export { createCudaBackend } from './cuda-backend.js';
export { CudaDevice, openCudaDevice } from './cuda-device.js';
export { CudaEvent } from './cuda-event.js';
export { CudaGraph, type ReplayOptions } from './cuda-graph.js';
export { CudaRecorder, type RecordedAttentionOptions, type RecordedQuantizeOptions } from './cuda-recorder.js';
export { cudaStatus } from './cuda-status.js';
export { CudaStream } from './cuda-stream.js';
export { CudaTensor } from './cuda-tensor.js';
export type {
  CudaAttentionInputs,
  CudaAttentionOptions,
  CudaAttentionResult,
  CudaHalfQuantizedInputs,
  CudaQuantizedInputs,
  CudaQuantizedOptions,
} from './device-attention.js';
export type { Int4Options } from './device-int4.js';
export type { CudaQuantizedTensor, QuantizeGranularity, QuantizeOptions } from './device-quantize.js';
export type { CacheTimingRequest } from './native-decoder.js';
export type { Baseline, CudaKernel } from './native-request.js';
export { type PinnedArrays, PinnedBuffer } from './pinned-buffer.js';
export type { CudaDataType } from './strided-memory.js';
