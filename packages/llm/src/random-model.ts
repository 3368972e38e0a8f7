import { createCipheriv, createHash } from 'node:crypto';
import { eventLoopTurn, type LinearWeights } from '@int-flash/ops';
import type { CheckpointOptions } from './checkpoint.js';
import { checkJsonObject } from './file-arguments.js';
import type { JsonObject } from './json-file.js';
import { type ModelConfig, parseModelConfig } from './model-config.js';
import type { ModelFiles } from './open-model.js';
import { Tokenizer } from './tokenizer.js';
import type { LinearShape, StoredTensor, WeightSource } from './weight-source.js';

const CODE_RANGE = 127;
/** Weights drawn at a time: about a millisecond's worth. */
const SLICE = 2 ** 20;

/**
 * A model of the shape that a config.json describes, with random INT8 weights: as fast as the real one, and it says nothing. The same each
 * time.
 *
 * Its tokenizer names the tokens `t0`, `t1`, …, so that what is drawn can be written; it can encode no text.
 */
export function randomModelFiles(config: JsonObject, options: CheckpointOptions = {}): ModelFiles {
  const judged = parseModelConfig(checkJsonObject(config, 'config'));
  return {
    weights: new RandomWeights(judged, options),
    format: 'safetensors',
    readTokenizer: async () => numberedTokenizer(judged.vocabSize),
    readGenerationConfig: async () => ({}),
  };
}

/** Weights that keep activations in the range of a trained model's: a linear layer neither grows nor shrinks what it reads. */
class RandomWeights implements WeightSource {
  readonly folder = '';
  readonly fileBytes = 0;

  readonly #options: CheckpointOptions;
  readonly #total: number;
  #drawn = 0;

  constructor(
    readonly config: ModelConfig,
    options: CheckpointOptions,
  ) {
    this.#options = options;
    this.#total = weightCount(config);
  }

  entries(): StoredTensor[] {
    return [];
  }

  async readFloats(name: string, shape: readonly number[]): Promise<Float32Array> {
    const count = shape.reduce((product, size) => product * size, 1);
    if (/norm\.weight$/.test(name)) return new Float32Array(count).fill(1);
    if (shape.length === 1) return new Float32Array(count);
    const scale = bfloat16Scale(shape.at(-1)!);
    const values = new Float32Array(count);
    await this.#draw(name, count, (codes, from) => {
      for (let i = 0; i < codes.length; i++) values[from + i] = codes[i]! * scale;
    });
    return values;
  }

  async readLinear(name: string, { rows, cols, bias }: LinearShape): Promise<LinearWeights> {
    const scales = new Float32Array(rows).fill(name === 'lm_head' ? bfloat16Scale(cols) : uniformScale(cols));
    const zeros = bias ? new Float32Array(rows) : undefined;
    const codes = new Int8Array(rows * cols);
    await this.#draw(name, codes.length, (drawn, from) => codes.set(drawn, from));
    return { type: 'int8', rows, cols, bias: zeros, codes, scales };
  }

  /** The keystream of a cipher whose key is the tensor's name: gigabytes a second. Whoever waits for a signal is heard in between. */
  async #draw(name: string, count: number, take: (codes: Int8Array, from: number) => void): Promise<void> {
    const { signal, onProgress } = this.#options;
    const key = createHash('sha256').update(name).digest().subarray(0, 16);
    const cipher = createCipheriv('aes-128-ctr', key, Buffer.alloc(16));
    const zeros = Buffer.alloc(Math.min(count, SLICE));
    for (let from = 0; from < count; from += zeros.length) {
      signal?.throwIfAborted();
      const bytes = cipher.update(zeros.subarray(0, Math.min(zeros.length, count - from)));
      const codes = new Int8Array(bytes.buffer, bytes.byteOffset, bytes.length);
      for (let i = 0; i < codes.length; i++) if (codes[i] === -128) codes[i] = -CODE_RANGE;
      take(codes, from);
      this.#drawn += codes.length;
      onProgress?.({ loadedBytes: Math.min(this.#drawn, this.#total), totalBytes: this.#total });
      await eventLoopTurn();
    }
  }

  async close(): Promise<void> {}

  async [Symbol.asyncDispose](): Promise<void> {}
}

/** Codes uniform in [-127, 127] have variance 127² / 3; times this, a sum over `cols` has that of one input. */
function uniformScale(cols: number): number {
  return Math.sqrt(3 / cols) / CODE_RANGE;
}

/** The power of two next to it: codes times this are numbers of bfloat16, as what checkpoints do not quantize. */
function bfloat16Scale(cols: number): number {
  return 2 ** Math.round(Math.log2(uniformScale(cols)));
}

/** Of all matrices. */
function weightCount(config: ModelConfig): number {
  const { layers, hiddenSize, heads, kvHeads, headDim, intermediateSize, mlp, vocabSize, tiedEmbeddings } = config;
  const layer = 2 * (heads + kvHeads) * headDim + (mlp.type === 'gated' ? 3 : 2) * intermediateSize;
  return hiddenSize * (layers * layer + vocabSize * (tiedEmbeddings ? 1 : 2));
}

function numberedTokenizer(size: number): Tokenizer {
  const vocab = Object.fromEntries(Array.from({ length: size }, (_, id) => [`t${id}`, id]));
  return new Tokenizer({ model: { type: 'BPE', vocab, merges: [] }, added_tokens: [] });
}
