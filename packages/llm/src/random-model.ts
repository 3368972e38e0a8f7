import { createCipheriv, createHash } from 'node:crypto';
import type { LinearWeights } from '@int-flash/ops';
import type { JsonObject } from './json-file.js';
import { type ModelConfig, parseModelConfig } from './model-config.js';
import type { ModelFiles } from './open-model.js';
import { Tokenizer } from './tokenizer.js';
import type { LinearShape, StoredTensor, WeightSource } from './weight-source.js';

const CODE_RANGE = 127;

/**
 * A model of the shape that a config.json describes, with random INT8 weights: as fast as the real one, and it says nothing. The same each
 * time.
 *
 * Its tokenizer names the tokens `t0`, `t1`, …, so that what is drawn can be written; it can encode no text.
 */
export function randomModelFiles(config: JsonObject): ModelFiles {
  const judged = parseModelConfig(config);
  return {
    weights: new RandomWeights(judged),
    format: 'safetensors',
    readTokenizer: async () => numberedTokenizer(judged.vocabSize),
    readGenerationConfig: async () => ({}),
  };
}

/** Weights that keep activations in the range of a trained model's: a linear layer neither grows nor shrinks what it reads. */
class RandomWeights implements WeightSource {
  readonly folder = '';
  readonly fileBytes = 0;

  constructor(readonly config: ModelConfig) {}

  entries(): StoredTensor[] {
    return [];
  }

  async readFloats(name: string, shape: readonly number[]): Promise<Float32Array> {
    const count = shape.reduce((product, size) => product * size, 1);
    if (/norm\.weight$/.test(name)) return new Float32Array(count).fill(1);
    if (shape.length === 1) return new Float32Array(count);
    const scale = uniformScale(shape.at(-1)!);
    const codes = randomCodes(name, count);
    const values = new Float32Array(count);
    for (let i = 0; i < count; i++) values[i] = codes[i]! * scale;
    return values;
  }

  async readLinear(name: string, { rows, cols, bias }: LinearShape): Promise<LinearWeights> {
    const scales = new Float32Array(rows).fill(uniformScale(cols));
    const zeros = bias ? new Float32Array(rows) : undefined;
    return { type: 'int8', rows, cols, bias: zeros, codes: randomCodes(name, rows * cols), scales };
  }

  async close(): Promise<void> {}

  async [Symbol.asyncDispose](): Promise<void> {}
}

/** Codes uniform in [-127, 127] have variance 127² / 3; times this, a sum over `cols` has that of one input. */
function uniformScale(cols: number): number {
  return Math.sqrt(3 / cols) / CODE_RANGE;
}

/** The keystream of a cipher whose key is the tensor's name: gigabytes a second. */
function randomCodes(name: string, count: number): Int8Array {
  const codes = new Int8Array(count);
  const key = createHash('sha256').update(name).digest().subarray(0, 16);
  const cipher = createCipheriv('aes-128-ctr', key, Buffer.alloc(16));
  const zeros = Buffer.alloc(Math.min(count, 2 ** 20));
  for (let from = 0; from < count; from += zeros.length)
    codes.set(cipher.update(zeros.subarray(0, Math.min(zeros.length, count - from))), from);
  for (let i = 0; i < count; i++) if (codes[i] === -128) codes[i] = -CODE_RANGE;
  return codes;
}

function numberedTokenizer(size: number): Tokenizer {
  const vocab = Object.fromEntries(Array.from({ length: size }, (_, id) => [`t${id}`, id]));
  return new Tokenizer({ model: { type: 'BPE', vocab, merges: [] }, added_tokens: [] });
}
