import type { DecoderSpec } from '@int-flash/ops';
import type { Rotary } from './layers/rotary.js';
import type { ModelConfig } from './model-config.js';
import type { ModelWeights } from './model-weights.js';

/** A model as a backend is told of it that can run the whole decoder. */
export function decoderSpec(config: ModelConfig, weights: ModelWeights, rotary: Rotary | undefined): DecoderSpec {
  const { hiddenSize, heads, kvHeads, headDim, intermediateSize, vocabSize, maxPositions, norm, mlp } = config;
  return {
    hiddenSize,
    heads,
    kvHeads,
    headDim,
    intermediateSize,
    vocabSize,
    maxTokens: maxPositions,
    norm,
    activation: mlp.type === 'gated' ? 'swiglu' : mlp.activation,
    scale: 1 / Math.sqrt(headDim),
    embedding: config.tiedEmbeddings ? undefined : weights.embedding,
    positions: weights.positions,
    rotary: rotary?.tables(maxPositions),
    layers: weights.layers.map((layer, index) => ({
      ...layer,
      windowLeft: (config.slidingWindows[index] ?? Infinity) - 1,
    })),
    outputNorm: weights.outputNorm,
    output: weights.output,
  };
}
