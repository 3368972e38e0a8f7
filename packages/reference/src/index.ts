export { cacheAttention } from './cache-attention.js';
export {
  cosine,
  meanRelativeError,
  paperMre,
  relativeL2,
  rmse,
  rowErrorQuantile,
  type WorstElement,
  worstElement,
} from './error-metrics.js';
export { type FlashDArithmetic, flashDAttention, flashDAttentionSteps } from './flash-d-attention.js';
export { decodeFp8, encodeFp8, FP8_FORMATS, type Fp8Format, maxFp8, roundToFp8 } from './fp8.js';
export { type Fp8Options, fp8Attention, fp8AttentionSteps } from './fp8-attention.js';
export {
  type AttentionInputs,
  INPUT_FAMILIES,
  type InputFamily,
  type InputShape,
  makeInputs,
  seededNormal,
  seededUniform,
} from './input-families.js';
export { int8Attention, type TwinObserver, type TwinResult } from './int8-attention.js';
export { predictRelativeRms } from './predicted-noise.js';
export { softmaxAttention, softmaxAttentionSteps } from './softmax-attention.js';
export { runSteps, runStepsInSlices, type Steps } from './steps.js';
export type { ReferenceResult } from './walk-rows.js';
