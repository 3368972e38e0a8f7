export {
  type AsymmetricGroups,
  dequantizeAsymmetricGroups,
  type GroupShape,
  quantizeAsymmetricGroups,
} from './asymmetric-groups.js';
export {
  CALIBRATION_METHODS,
  type Calibration,
  type CalibrationMethod,
  type CalibrationOptions,
  calibrateInt8,
} from './calibrate.js';
export { exp2Polynomial } from './exp2-polynomial.js';
export { type FloatInput, readFloatInput } from './float-input.js';
export { fma32 } from './fma32.js';
export { hadamardBlock, hadamardRotate } from './hadamard.js';
export { widenInt4Linear } from './int4-linear.js';
export { packInt4, unpackInt4 } from './int4-packing.js';
export {
  dequantizeKv,
  KIVI_GROUP,
  KV_CACHE_FORMATS,
  type KvCacheFormat,
  type QuantizedKv,
  quantizeKv,
} from './kv-cache-formats.js';
export { log2Weight } from './log2-weight.js';
export { dequantizePerBlockInt8, type PerBlockInt8, quantizePerBlockInt8 } from './per-block-int8.js';
export { dequantizePerChannelInt8, type PerChannelInt8, quantizePerChannelInt8 } from './per-channel-int8.js';
export {
  dequantizePerGroupInt4,
  INT4_GROUPS,
  type Int4Group,
  type PerGroupInt4,
  quantizePerGroupInt4,
} from './per-group-int4.js';
export { dequantizePerTensorInt8, type PerTensorInt8, quantizePerTensorInt8 } from './per-tensor-int8.js';
export {
  dequantizePerTokenInt4,
  encodePerTokenInt4,
  type PerTokenInt4,
  quantizePerTokenInt4,
} from './per-token-int4.js';
export { dequantizePerTokenInt8, type PerTokenInt8, quantizePerTokenInt8 } from './per-token-int8.js';
export { roundHalfEven } from './round-half-even.js';
export { type SmoothedK, smoothK } from './smooth-k.js';
export { dequantizeTokenLevelV, quantizeTokenLevelV, type TokenLevelV } from './token-level-v.js';
