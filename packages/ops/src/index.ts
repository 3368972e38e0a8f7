export {
  ATTENTION_OPTION_KEYS,
  judgeAttention,
  judgeHalfQuantizedAttention,
  judgeQuantizedAttention,
} from './attention-args.js';
export {
  type AttentionGeometry,
  type AttentionPlan,
  type AttentionResult,
  type CausalAlignment,
  type CodeOperand,
  type FloatOperand,
  type HalfQuantizedAttentionPlan,
  type MaskOperand,
  PRECISIONS,
  type Precision,
  type QuantizedAttentionPlan,
  type RowStrides,
  type SequenceSpan,
  type TensorLayout,
} from './attention-plan.js';
export {
  BACKEND_NAMES,
  type Backend,
  type BackendName,
  type BackendStatus,
  type CacheAppendArgs,
  type CacheAttentionArgs,
  type Int4Group,
  type Linear,
  type LinearSteps,
  type LinearWeights,
  type RotaryArgs,
} from './backend.js';
export { checkBuffer } from './buffer-check.js';
export type {
  Decoder,
  DecoderCacheShape,
  DecoderLayer,
  DecoderMemory,
  DecoderMemoryShape,
  DecoderNorm,
  DecoderPage,
  DecoderPart,
  DecoderSequence,
  DecoderSpec,
  DrawPart,
  DrawRules,
  KeyScales,
  LogitsPart,
} from './decoder.js';
export { describe, wrongType } from './describe.js';
export { eventLoopRest, eventLoopTurn } from './event-loop-turns.js';
export {
  bfloat16BitsToNumber,
  type FloatType,
  fromFloat32,
  numberToBfloat16Bits,
  toFloat32,
} from './float-formats.js';
export { float16BitsToNumber, float32ToFloat16Bits, numberToFloat16Bits } from './float16-bits.js';
export { type HostArrayKind, hostArray, hostArrayOf, noHostMemory } from './host-array.js';
export type { HostLayer, HostLayerShape, HostLayerStep } from './host-layer.js';
export {
  ERROR_CODES,
  type ErrorCode,
  type ErrorDetails,
  IntFlashError,
  type UnavailableReason,
} from './int-flash-error.js';
export { type FlatCacheView, flatCache, KV_PAGE_TOKENS, type KvCacheView } from './kv-cache-view.js';
export {
  checkBoolean,
  checkChoice,
  checkInteger,
  checkNumber,
  checkOptions,
  checkSignal,
  readArguments,
  readIntegerVariable,
} from './option-check.js';
export { arrayLength, plainArray, typedArrayKind } from './plain-array.js';
export {
  contiguousStrides,
  type DataType,
  judgeTensor,
  type Tensor,
  type TensorData,
  type TensorJudge,
  type TensorLike,
  tensor,
} from './tensor.js';
