export { type ChatMessage, type ChatTemplateInput, renderChatTemplate } from './chat-template.js';
export { Checkpoint, type CheckpointOptions, openCheckpoint } from './checkpoint.js';
export type { Detokenizer } from './detokenizer.js';
export { type FittedInt4, quantizeFittedInt4 } from './fitted-int4.js';
export type { FinishReason, GeneratedToken, Generation, GenerationStats } from './generate.js';
export type { GenerateOptions, SequenceOptions } from './generate-options.js';
export { type GenerationConfig, readGenerationConfig } from './generation-config.js';
export { KV_CACHE_DTYPES, type KvCacheDtype } from './kv-cache-layer.js';
export {
  type LanguageModel,
  type LogitsOptions,
  loadModel,
  loadRandomModel,
  type ModelStatus,
  type PerplexityOptions,
  type Prompt,
} from './language-model.js';
export { ATTENTION_CHOICES, type AttentionChoice } from './layers/attention.js';
export { LINEAR_CHOICES, type LinearChoice } from './layers/linear.js';
export type { RotaryScaling, RotaryShape } from './layers/rotary.js';
export type { LoadOptions } from './load-options.js';
export {
  type Activation,
  ARCHITECTURES,
  type Architecture,
  type ModelConfig,
  readModelConfig,
} from './model-config.js';
export { isGgufPath, type ModelFiles, openModel } from './open-model.js';
export type { PageCounts } from './page-pool.js';
export type { Perplexity } from './perplexity.js';
export { type QuantizeOptions, type QuantizeSummary, quantizeCheckpoint } from './quantize-checkpoint.js';
export {
  readSafetensors,
  type SafetensorsData,
  type SafetensorsDtype,
  type SafetensorsEntry,
  type SafetensorsHeader,
  type SafetensorsTensor,
} from './safetensors.js';
export { SafetensorsFile } from './safetensors-file.js';
export { writeSafetensors } from './safetensors-writer.js';
export type { TokenLogprob } from './sampler.js';
export { loadTokenizer, type SpecialTokenFacts, Tokenizer } from './tokenizer.js';
export type { LinearShape, StoredTensor, WeightSource } from './weight-source.js';
