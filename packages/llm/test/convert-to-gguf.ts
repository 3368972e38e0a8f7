import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { ggufName } from '../src/gguf-checkpoint.js';
import { openCheckpoint } from '../src/index.js';
import { GGML, type GgufTensor, type GgufTyped, int8RowsAsQ8, writeGguf } from './write-gguf.js';

/** A model folder as the GGUF file that llama.cpp's converter would make of it; its tokenizer goes in whole. */
export async function convertToGguf(
  folder: string,
  linear: keyof typeof GGML | 'int8-rows',
  { architecture, tokenizerJson }: { readonly architecture: string; readonly tokenizerJson?: string },
): Promise<Buffer> {
  await using checkpoint = await openCheckpoint(folder);
  const { config } = checkpoint;
  const key = (name: string) => `${architecture}.${name}`;
  const metadata: Record<string, GgufTyped> = {
    'general.architecture': ['string', architecture],
    [key('block_count')]: ['uint32', config.layers],
    [key('context_length')]: ['uint32', config.maxPositions],
    [key('embedding_length')]: ['uint32', config.hiddenSize],
    [key('feed_forward_length')]: ['uint32', config.intermediateSize],
    [key('attention.head_count')]: ['uint32', config.heads],
    [key('attention.head_count_kv')]: ['uint32', config.kvHeads],
    [key('attention.key_length')]: ['uint32', config.headDim],
    [key('attention.value_length')]: ['uint32', config.headDim],
    [key('attention.layer_norm_rms_epsilon')]: ['float32', config.norm.epsilon],
    'tokenizer.huggingface.json': ['string', tokenizerJson ?? TINY_TOKENIZER(config.vocabSize)],
  };
  const tensors: GgufTensor[] = [];
  if (config.position.type === 'rope') {
    metadata[key('rope.freq_base')] = ['float32', config.position.theta];
    metadata[key('rope.dimension_count')] = ['uint32', config.headDim];
    const { scaling, theta } = config.position;
    if (scaling.type === 'linear') {
      metadata[key('rope.scaling.type')] = ['string', 'linear'];
      metadata[key('rope.scaling.factor')] = ['float32', scaling.factor];
    }
    if (scaling.type === 'llama3') {
      const divisors = Float32Array.from({ length: config.headDim / 2 }, (_, i) => {
        const wavelength = (2 * Math.PI) / theta ** ((-2 * i) / config.headDim);
        const turns = scaling.originalMaxPositions / wavelength;
        if (turns > scaling.highFreqFactor) return 1;
        if (turns < scaling.lowFreqFactor) return scaling.factor;
        const smooth = (turns - scaling.lowFreqFactor) / (scaling.highFreqFactor - scaling.lowFreqFactor);
        return 1 / ((1 - smooth) / scaling.factor + smooth);
      });
      tensors.push({ name: 'rope_freqs.weight', shape: [divisors.length], type: 0, bytes: GGML.f32.encode(divisors) });
    }
  }
  const window = config.slidingWindows[0];
  if (window) metadata[key('attention.sliding_window')] = ['uint32', window];
  if (config.bosTokenId !== undefined) metadata['tokenizer.ggml.bos_token_id'] = ['uint32', config.bosTokenId];
  if (config.eosTokenIds[0] !== undefined) metadata['tokenizer.ggml.eos_token_id'] = ['uint32', config.eosTokenIds[0]];
  if (config.bosTokenId !== undefined || config.eosTokenIds.length > 0) {
    const json = JSON.parse((metadata['tokenizer.huggingface.json'] as readonly ['string', string])[1]);
    const tokens: string[] = [];
    for (const [token, id] of Object.entries<number>(json.model.vocab)) tokens[id] = token;
    for (const { content, id } of json.added_tokens ?? []) tokens[id] = content;
    metadata['tokenizer.ggml.tokens'] = ['strings', tokens];
  }
  for (const { name, dtype, shape } of checkpoint.entries()) {
    if (name.endsWith('_scale')) continue;
    if (config.tiedEmbeddings && name === 'lm_head.weight') continue;
    const stored = {
      name: ggufName(name.startsWith('model.') || name.startsWith('lm_head') ? name : `model.${name}`),
      shape,
    };
    const heads = /q_proj/.test(name) ? config.heads : /k_proj/.test(name) ? config.kvHeads : 0;
    const permute = architecture === 'llama' && heads > 0;
    if (dtype === 'I8') {
      const weights = await checkpoint.readLinear(name.replace(/\.weight$/, ''), {
        rows: shape[0]!,
        cols: shape[1]!,
        bias: false,
      });
      if (weights.type !== 'int8') throw new Error(`expected ${name} as INT8`);
      const codes = permute ? interleave(weights.codes, heads, shape) : weights.codes;
      const scales = permute ? interleave(weights.scales, heads, [shape[0]!]) : weights.scales;
      tensors.push({ ...stored, type: GGML.q8_0.type, bytes: int8RowsAsQ8(codes, scales, shape[1]!) });
      continue;
    }
    const values = await checkpoint.readFloats(name, shape);
    const ordered = permute ? interleave(values, heads, shape) : values;
    const isLinear = shape.length === 2 && /_proj\.weight$/.test(name);
    const isWhole = shape.at(-1)! % 32 === 0; // llama.cpp's converter leaves other rows as floats, too
    const { type, encode } = GGML[isLinear && isWhole && linear !== 'int8-rows' ? linear : 'f32'];
    tensors.push({ ...stored, type, bytes: encode(ordered) });
  }
  return writeGguf(metadata, tensors);
}

/** llama.cpp's order of Q and K rows: `reshape(heads, 2, dim / 2, …).swapaxes(1, 2)`. */
function interleave<T extends Float32Array | Int8Array>(values: T, heads: number, shape: readonly number[]): T {
  const rows = shape[0]!;
  const cols = values.length / rows;
  const half = rows / heads / 2;
  const out = values.slice() as T;
  for (let head = 0; head < heads; head++) {
    for (let part = 0; part < 2; part++) {
      for (let i = 0; i < half; i++) {
        const from = (head * 2 + part) * half + i;
        const to = head * 2 * half + 2 * i + part;
        out.set(values.subarray(from * cols, (from + 1) * cols), to * cols);
      }
    }
  }
  return out;
}

/** A token a letter of a private alphabet: the golden models have no tokenizer of their own. */
function TINY_TOKENIZER(size: number): string {
  const vocab = Object.fromEntries(Array.from({ length: size }, (_, id) => [String.fromCodePoint(0xf0000 + id), id]));
  return JSON.stringify({ model: { type: 'BPE', vocab, merges: [] }, added_tokens: [] });
}

/** The shipped model's tokenizer.json. */
export function tokenizerJsonOf(folder: string): Promise<string> {
  return readFile(join(folder, 'tokenizer.json'), 'utf8');
}
