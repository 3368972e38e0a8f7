import { type CheckpointOptions, openCheckpoint } from './checkpoint.js';
import { checkPath, checkReadOptions } from './file-arguments.js';
import { type GenerationConfig, readGenerationConfig } from './generation-config.js';
import { GgufCheckpoint } from './gguf-checkpoint.js';
import { readGgufTokenizer } from './gguf-tokenizer.js';
import { loadTokenizer, type Tokenizer } from './tokenizer.js';
import type { WeightSource } from './weight-source.js';

/** A model's files, opened: weights to be read, the rest read on demand. */
export interface ModelFiles {
  readonly weights: WeightSource;
  /** What the model was found in. */
  readonly format: 'safetensors' | 'gguf';
  readTokenizer(): Promise<Tokenizer>;
  readGenerationConfig(): Promise<GenerationConfig>;
}

/**
 * Opens a folder in Hugging Face format, or a GGUF file. Close `weights` afterwards.
 * @throws {IntFlashError} `ERR_MODEL_FORMAT`, `ERR_MODEL_LIMIT`, `ERR_UNSUPPORTED`, `ERR_ARG_*`.
 */
export async function openModel(path: string, options: CheckpointOptions = {}): Promise<ModelFiles> {
  checkPath(path, 'the model');
  if (isGgufPath(path)) {
    const weights = await GgufCheckpoint.open(path, checkReadOptions(options, 'onProgress'));
    return {
      weights,
      format: 'gguf',
      readTokenizer: async () => readGgufTokenizer(weights.metadata),
      readGenerationConfig: async () => ({}), // GGUF has no place for it
    };
  }
  const weights = await openCheckpoint(path, options);
  return {
    weights,
    format: 'safetensors',
    readTokenizer: () => loadTokenizer(path),
    readGenerationConfig: () => readGenerationConfig(path, weights.config.vocabSize),
  };
}

/** A file by its ending, as everybody names them. */
export function isGgufPath(path: string): boolean {
  return typeof path === 'string' && /\.gguf$/i.test(path);
}
