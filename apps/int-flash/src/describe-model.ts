import { existsSync } from 'node:fs';
import { basename, resolve } from 'node:path';
import { openModel, type StoredTensor, type WeightSource } from '@int-flash/llm';
import type { ModelDescription, ModelFacts } from './runtime.js';

/** What an opened checkpoint's headers and config say. */
export function modelFacts(weights: WeightSource): ModelFacts {
  const { config, folder } = weights;
  const linear = weights.entries().filter(({ name, shape }) => LINEAR.test(name) && shape.length === 2);
  const dtypes = [
    ...new Set(linear.map(({ name, dtype }) => (isPacked(name) ? 'int4' : (DTYPE_WORDS[dtype] ?? dtype)))),
  ];
  return {
    folder,
    name: basename(resolve(folder)),
    architecture: config.architecture,
    parameters: parameterCount(weights.entries()),
    bytes: weights.fileBytes,
    weights: dtypes.join(' and ') || 'float',
    contextLength: config.maxPositions,
    vocabularySize: config.vocabSize,
  };
}

/** Linear layers as transformers, GPT-2 and llama.cpp name them. */
const LINEAR = /_proj\.weight(_packed)?$|\.c_\w+\.weight$|^blk\.\d+\.(attn_[qkv]|attn_output|ffn_\w+)\.weight$/;

const DTYPE_WORDS: Readonly<Record<string, string>> = { I8: 'int8', BF16: 'bf16', F16: 'fp16', F32: 'fp32' };

const CODES_A_WORD = 8;

/** Whether a tensor holds INT4 codes, eight in an int32. */
function isPacked(name: string): boolean {
  return name.endsWith('.weight_packed');
}

/** Elements of all tensors but the scales of quantized ones, which the float model did not have. */
function parameterCount(tensors: readonly StoredTensor[]): number {
  return tensors
    .filter(({ name }) => !/\.weight_(scale|shape|zero_point)$|^rope_freqs\.weight$/.test(name))
    .reduce(
      (sum, { name, shape }) =>
        sum + shape.reduce((product, size) => product * size, isPacked(name) ? CODES_A_WORD : 1),
      0,
    );
}

/** Reads config, weight headers and tokenizer of a model, no weights. */
export async function describeModel(path: string): Promise<ModelDescription> {
  const { weights, format, readTokenizer } = await openModel(path);
  try {
    const { config } = weights;
    const facts = modelFacts(weights);
    const hasTokenizer = format === 'gguf' || existsSync(`${path}/tokenizer.json`);
    const tokenizer = hasTokenizer ? await readTokenizer() : undefined;
    return {
      ...facts,
      layers: config.layers,
      hiddenSize: config.hiddenSize,
      heads: config.heads,
      kvHeads: config.kvHeads,
      headDim: config.headDim,
      feedForwardSize: config.intermediateSize,
      tiedEmbeddings: config.tiedEmbeddings,
      quantization: config.quantization
        ? `compressed-tensors ${config.quantization.format}`
        : format === 'gguf'
          ? 'gguf'
          : 'none',
      slidingWindow: config.slidingWindows.find((window) => window !== null) ?? null,
      chatTemplate: tokenizer?.chatTemplate !== undefined,
      specialTokens: tokenizer?.specialTokens ?? [],
      tensors: weights
        .entries()
        .map(({ name, dtype, shape, byteLength }) => ({ name, dtype, shape, bytes: byteLength })),
    };
  } finally {
    await weights.close();
  }
}
