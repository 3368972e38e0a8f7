import { existsSync } from 'node:fs';
import { basename, resolve } from 'node:path';
import { type Checkpoint, loadTokenizer, openCheckpoint } from '@int-flash/llm';
import type { ModelDescription, ModelFacts } from './runtime.js';

/** What an opened checkpoint's headers and config say. */
export function modelFacts(checkpoint: Checkpoint): ModelFacts {
  const { config, folder } = checkpoint;
  const linear = checkpoint
    .entries()
    .filter(({ name, shape }) => /_proj\.weight$|\.c_\w+\.weight$/.test(name) && shape.length === 2);
  const dtypes = [...new Set(linear.map(({ dtype }) => DTYPE_WORDS[dtype] ?? dtype))];
  return {
    folder,
    name: basename(resolve(folder)),
    architecture: config.architecture,
    parameters: parameterCount(checkpoint),
    bytes: checkpoint.fileBytes,
    weights: dtypes.join(' and ') || 'float',
    contextLength: config.maxPositions,
    vocabularySize: config.vocabSize,
  };
}

const DTYPE_WORDS: Readonly<Record<string, string>> = { I8: 'int8', BF16: 'bf16', F16: 'fp16', F32: 'fp32' };

/** Elements of all tensors but the scales of quantized ones, which the float model did not have. */
function parameterCount(checkpoint: Checkpoint): number {
  return checkpoint
    .entries()
    .filter(({ name }) => !/\.weight_(scale|shape|zero_point)$/.test(name))
    .reduce((sum, { shape }) => sum + shape.reduce((product, size) => product * size, 1), 0);
}

/** Reads config, weight headers and tokenizer files of a model folder, no weights. */
export async function describeModel(folder: string): Promise<ModelDescription> {
  const checkpoint = await openCheckpoint(folder);
  try {
    const { config } = checkpoint;
    const facts = modelFacts(checkpoint);
    const tokenizer = existsSync(`${folder}/tokenizer.json`) ? await loadTokenizer(folder) : undefined;
    return {
      ...facts,
      layers: config.layers,
      hiddenSize: config.hiddenSize,
      heads: config.heads,
      kvHeads: config.kvHeads,
      headDim: config.headDim,
      feedForwardSize: config.intermediateSize,
      tiedEmbeddings: config.tiedEmbeddings,
      quantization: config.quantization ? `compressed-tensors ${config.quantization.format}` : 'none',
      slidingWindow: config.slidingWindows.find((window) => window !== null) ?? null,
      chatTemplate: tokenizer?.chatTemplate !== undefined,
      specialTokens: tokenizer?.specialTokens ?? [],
      tensors: checkpoint
        .entries()
        .map(({ name, dtype, shape, byteLength }) => ({ name, dtype, shape, bytes: byteLength })),
    };
  } finally {
    await checkpoint.close();
  }
}
