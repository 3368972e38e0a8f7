export {
  type Backend,
  type BackendName,
  type BackendStatus,
  type CausalAlignment,
  type DataType,
  type ErrorCode,
  IntFlashError,
  PRECISIONS,
  type Precision,
  type Tensor,
  type TensorLayout,
  type TensorLike,
  tensor,
  type UnavailableReason,
} from '@int-flash/ops';
export type { BackendOptions } from './backend-providers.js';
export {
  type AttentionInputs,
  type AttentionOptions,
  type AttentionOutput,
  type AttentionSyncOptions,
  type FloatTensor,
  intFlashAttention,
  intFlashAttentionQuantized,
  intFlashAttentionQuantizedSync,
  intFlashAttentionSync,
  type QuantizedAttentionInputs,
  type QuantizedAttentionOptions,
  type QuantizedAttentionSyncOptions,
} from './int-flash-attention.js';
export {
  BACKEND_CHOICES,
  BACKEND_VARIABLE,
  type BackendChoice,
  type Status,
  selectBackend,
  status,
} from './select-backend.js';
