import { type Backend, fromFloat32, type Linear, type LinearWeights, toFloat32 } from '@int-flash/ops';
import { quantizePerGroupInt4 } from '@int-flash/quant';
import { seededNormal, seededUniform } from '@int-flash/reference';
import { expect } from 'vitest';
import { createLinear } from '../src/layers/linear.js';
import type { ModelConfig } from '../src/model-config.js';
import type { ModelWeights } from '../src/model-weights.js';

/** A decoder small enough to compare backends on, with what is awkward about real ones. */
export const SMALL: ModelConfig = {
  architecture: 'llama',
  vocabSize: 300,
  hiddenSize: 96,
  layers: 2,
  heads: 4,
  kvHeads: 2,
  headDim: 64,
  intermediateSize: 200,
  maxPositions: 2500,
  norm: { type: 'rms', epsilon: 1e-5 },
  position: { type: 'rope', rotaryDim: 64, theta: 10000, scaling: { type: 'default' } },
  mlp: { type: 'gated', activation: 'silu', bias: false },
  qkvBias: false,
  attentionOutputBias: false,
  qkNorm: false,
  slidingWindows: [null, null],
  tiedEmbeddings: true,
  transposedWeights: false,
  bosTokenId: undefined,
  eosTokenIds: [],
  quantization: undefined,
};

/** Heads of every padded width, groups that fill, exceed and split a block's rows, windows, norms of heads. */
export const VARIANTS: Record<string, Partial<ModelConfig>> = {
  'head dim 64': {},
  'head dim 40, one group': { headDim: 40, heads: 2, position: { ...SMALL.position, rotaryDim: 40 } as never },
  'head dim 128, eleven queries a key': {
    headDim: 128,
    heads: 11,
    kvHeads: 1,
    position: { ...SMALL.position, rotaryDim: 128 } as never,
  },
  'head dim 256, partly turned': { headDim: 256, heads: 2, position: { ...SMALL.position, rotaryDim: 100 } as never },
  'sliding windows and norms of heads': { slidingWindows: [200, 7], qkNorm: true },
  'learned positions, layer norms, GELU': {
    position: { type: 'learned' },
    norm: { type: 'layer', epsilon: 1e-5 },
    mlp: { type: 'plain', activation: 'gelu-tanh', bias: true },
  },
  'untied, plain silu': { tiedEmbeddings: false, mlp: { type: 'plain', activation: 'silu', bias: false } },
  'exact GELU': { mlp: { type: 'plain', activation: 'gelu', bias: false } },
};

/** Channels of each head's keys that {@link randomWeights} makes larger. */
const LARGE_CHANNELS = [3, 30];

/** The same random weights on any backend. @param keySize Of a few channels of the keys, where 1 is that of the others. */
export function randomWeights(
  config: ModelConfig,
  backend: Backend,
  choice: 'int8' | 'fp32' | 'int4',
  keySize = 1,
): ModelWeights {
  const normal = seededNormal(seededUniform(5));
  const numbers = (count: number, size: number, around = 0) =>
    Float32Array.from({ length: count }, () => around + size * normal());
  const { hiddenSize, heads, kvHeads, headDim, intermediateSize, vocabSize, maxPositions, mlp } = config;
  const made: { dispose(): void }[] = [];
  const isLarge = (row: number) => {
    const head = Math.floor(row / headDim);
    return head >= heads && head < heads + kvHeads && LARGE_CHANNELS.includes(row % headDim);
  };
  const linear = (rows: number, cols: number, bias = false, kind = choice, sizeOf = (_row: number) => 1) => {
    const weights: LinearWeights & { type: 'fp32' } = {
      type: 'fp32',
      rows,
      cols,
      weights: numbers(rows * cols, 1 / Math.sqrt(cols)),
      bias: bias ? numbers(rows, 0.1) : undefined,
    };
    for (let row = 0; row < rows; row++) {
      const size = sizeOf(row);
      if (size !== 1) for (let i = row * cols; i < (row + 1) * cols; i++) weights.weights[i]! *= size;
    }
    const layer = kind === 'int4' ? int4Linear(backend, weights) : createLinear(backend, [weights], kind);
    made.push(layer);
    return layer;
  };
  const norm = () => ({
    gain: numbers(hiddenSize, 0.1, 1),
    bias: config.norm.type === 'layer' ? numbers(hiddenSize, 0.1) : undefined,
  });
  // As trained models have it: backends keep such numbers in 16 bits.
  const embedding = toFloat32(fromFloat32(numbers(vocabSize * hiddenSize, 1), 'bfloat16'), 'bfloat16');
  const layers = config.slidingWindows.map(() => ({
    attentionNorm: norm(),
    qkv: linear((heads + 2 * kvHeads) * headDim, hiddenSize, mlp.bias, choice, (row) => (isLarge(row) ? keySize : 1)),
    queryNorm: config.qkNorm ? numbers(headDim, 0.1, 1) : undefined,
    keyNorm: config.qkNorm ? numbers(headDim, 0.1, 1) : undefined,
    attentionOutput: linear(hiddenSize, heads * headDim, mlp.bias),
    mlpNorm: norm(),
    mlpUp: linear(intermediateSize * (mlp.type === 'gated' ? 2 : 1), hiddenSize, mlp.bias),
    mlpDown: linear(hiddenSize, intermediateSize, mlp.bias),
  }));
  const tied = { type: 'fp32', rows: vocabSize, cols: hiddenSize, weights: embedding, bias: undefined } as const;
  const output = config.tiedEmbeddings
    ? createLinear(backend, [tied], 'fp32')
    : linear(vocabSize, hiddenSize, false, 'fp32');
  made.push(output);
  return {
    embedding,
    positions: config.position.type === 'learned' ? numbers(maxPositions * hiddenSize, 1) : undefined,
    layers,
    outputNorm: norm(),
    output,
    dispose: () => {
      for (const layer of made) layer.dispose();
    },
  };
}

function int4Linear(backend: Backend, weights: LinearWeights & { type: 'fp32' }): Linear {
  const int4 = { ...weights, ...quantizePerGroupInt4(weights.weights, weights.cols, 32), type: 'int4' } as const;
  return createLinear(backend, [int4], 'auto');
}

export function tokenIds(count: number, vocabSize: number): number[] {
  const uniform = seededUniform(9);
  return Array.from({ length: count }, () => Math.floor(uniform() * vocabSize));
}

/** Of each piece the largest difference of a logit: 0 where both computed docs/arithmetic.md, in which nothing is left open but a last place of exp. */
export function differences(ours: Float32Array[], theirs: Float32Array[]): number[] {
  return ours.map((logits, piece) => {
    expect(logits.every(Number.isFinite), `piece ${piece} is finite`).toBe(true);
    return logits.reduce((most, x, i) => Math.max(most, Math.abs(x - theirs[piece]![i]!)), 0);
  });
}

export function expectSameBits(found: number[], where = '') {
  const piece = found.findIndex((difference) => difference !== 0);
  expect(found, `piece ${piece} of the text differs first${where}`).toEqual(found.map(() => 0));
}
