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
export { flashDAttention } from './flash-d-attention.js';
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
export { type ReferenceResult, softmaxAttention } from './softmax-attention.js';
