export { createCudaBackend } from './cuda-backend.js';
export { type CudaAttentionInputs, type CudaAttentionResult, CudaDevice, openCudaDevice } from './cuda-device.js';
export { cudaStatus } from './cuda-status.js';
export { type CudaDataType, CudaTensor } from './cuda-tensor.js';
