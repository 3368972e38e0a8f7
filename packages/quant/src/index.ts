export { exp2Polynomial } from './exp2-polynomial.js';
export { type FloatInput, readFloatInput } from './float-input.js';
export { fma32 } from './fma32.js';
export { packInt4, unpackInt4 } from './int4-packing.js';
export { log2Weight } from './log2-weight.js';
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
