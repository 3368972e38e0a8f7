import { IntFlashError } from '@int-flash/ops';
import type { GgufEntry } from './gguf-header.js';
import type { GgufMetadata } from './gguf-metadata.js';
import { llama3Frequency } from './layers/rotary.js';
import { type ModelConfig, parseModelConfig } from './model-config.js';

/** Architectures by the name that llama.cpp gives them. Mistral's models are `llama` there. */
const MODEL_TYPES = ['llama', 'qwen2', 'qwen3'] as const;
export type GgufArchitecture = (typeof MODEL_TYPES)[number];

const DEFAULT_THETA = 10_000;
/** What every Llama 3 has. */
const LLAMA3 = { lowFreqFactor: 1, highFreqFactor: 4 } as const;

export function readGgufArchitecture(metadata: GgufMetadata): GgufArchitecture {
  const name = metadata.text('general.architecture');
  const found = MODEL_TYPES.find((type) => type === name);
  if (found) return found;
  throw new IntFlashError(
    'ERR_UNSUPPORTED',
    `Expected a GGUF model of architecture ${MODEL_TYPES.join(', ')}, got ${JSON.stringify(name.slice(0, 80))}`,
    { field: 'general.architecture' },
  );
}

/**
 * A GGUF file's metadata as the config.json that transformers would have written, judged like one.
 *
 * @param ropeDivisors The tensor `rope_freqs.weight`, if the file has it.
 * @throws {IntFlashError} `ERR_MODEL_FORMAT`, `ERR_MODEL_LIMIT`, `ERR_UNSUPPORTED`.
 */
export function readGgufConfig(
  metadata: GgufMetadata,
  entries: ReadonlyMap<string, GgufEntry>,
  ropeDivisors: Float32Array | undefined,
): ModelConfig {
  const architecture = readGgufArchitecture(metadata);
  const key = (name: string) => `${architecture}.${name}`;
  const optional = (name: string) => (metadata.has(key(name)) ? metadata.number(key(name)) : undefined);
  const heads = uniform(metadata, key('attention.head_count'));
  const embedding = entries.get('token_embd.weight');
  if (embedding?.shape.length !== 2) {
    throw new IntFlashError(
      'ERR_MODEL_FORMAT',
      'Expected the GGUF file to hold the matrix token_embd.weight, got none',
      {
        field: 'token_embd.weight',
      },
    );
  }
  const hiddenSize = metadata.number(key('embedding_length'));
  const headDim = optional('attention.key_length') ?? hiddenSize / heads;
  const valueDim = optional('attention.value_length') ?? headDim;
  const rotaryDim = optional('rope.dimension_count') ?? headDim;
  if (valueDim !== headDim || rotaryDim !== headDim) {
    throw new IntFlashError(
      'ERR_UNSUPPORTED',
      `Expected keys, values and rotation as wide as a head, ${headDim}, got ${valueDim} and ${rotaryDim}`,
      { field: key('rope.dimension_count') },
    );
  }
  const theta = optional('rope.freq_base') ?? DEFAULT_THETA;
  const window = optional('attention.sliding_window');
  const eos = ['tokenizer.ggml.eos_token_id', 'tokenizer.ggml.eot_token_id'].filter((name) => metadata.has(name));
  return parseModelConfig({
    model_type: architecture === 'llama' && window !== undefined ? 'mistral' : architecture,
    vocab_size: embedding.shape[0],
    hidden_size: hiddenSize,
    num_hidden_layers: metadata.number(key('block_count')),
    num_attention_heads: heads,
    num_key_value_heads: metadata.has(key('attention.head_count_kv'))
      ? uniform(metadata, key('attention.head_count_kv'))
      : heads,
    head_dim: headDim,
    intermediate_size: uniform(metadata, key('feed_forward_length')),
    max_position_embeddings: metadata.number(key('context_length')),
    rms_norm_eps: metadata.number(key('attention.layer_norm_rms_epsilon')),
    rope_theta: theta,
    rope_scaling: ropeDivisors ? llama3Scaling(ropeDivisors, theta) : readScaling(metadata, key),
    ...(window !== undefined && { sliding_window: window, use_sliding_window: true }),
    attention_bias: architecture === 'llama' && entries.has('blk.0.attn_q.bias'),
    mlp_bias: entries.has('blk.0.ffn_gate.bias'),
    tie_word_embeddings: !entries.has('output.weight'),
    ...(metadata.has('tokenizer.ggml.bos_token_id') && {
      bos_token_id: metadata.number('tokenizer.ggml.bos_token_id'),
    }),
    eos_token_id: [...new Set(eos.map((name) => metadata.number(name)))],
  });
}

/** A number, or one a layer that are all the same. */
function uniform(metadata: GgufMetadata, key: string): number {
  try {
    return metadata.number(key);
  } catch (error) {
    const values = metadata.has(key) ? new Set(metadata.numbers(key)) : undefined;
    if (!values) throw error;
    if (values.size === 1) return [...values][0]!;
    throw new IntFlashError(
      'ERR_UNSUPPORTED',
      `Expected ${key} to be the same in all layers, got ${[...values].join(', ')}`,
      {
        field: key,
      },
    );
  }
}

function readScaling(metadata: GgufMetadata, key: (name: string) => string): object | undefined {
  if (!metadata.has(key('rope.scaling.type'))) return undefined;
  const type = metadata.text(key('rope.scaling.type'));
  if (type === 'none') return undefined;
  const optional = (name: string) => (metadata.has(key(name)) ? metadata.number(key(name)) : undefined);
  const original = optional('rope.scaling.original_context_length');
  return {
    rope_type: type,
    factor: optional('rope.scaling.factor'),
    ...(original !== undefined && { original_max_position_embeddings: original }),
  };
}

/**
 * Llama 3's scaling is written as a tensor of divisors, a channel pair each: the parameters that give them are looked for, as config.json
 * would have them.
 */
function llama3Scaling(divisors: Float32Array, theta: number): object {
  const factor = divisors.reduce((a, b) => Math.max(a, b), 1);
  for (let original = 2 ** 5; original <= 2 ** 20; original *= 2) {
    const scaling = { type: 'llama3', factor, ...LLAMA3, originalMaxPositions: original } as const;
    const fits = divisors.every((divisor, i) => {
      const frequency = theta ** (-i / divisors.length);
      return Math.abs((divisor * llama3Frequency(frequency, scaling)) / frequency - 1) < 1e-4; // the tensor is float32
    });
    if (!fits) continue;
    return {
      rope_type: 'llama3',
      factor,
      low_freq_factor: LLAMA3.lowFreqFactor,
      high_freq_factor: LLAMA3.highFreqFactor,
      original_max_position_embeddings: original,
    };
  }
  throw new IntFlashError('ERR_UNSUPPORTED', "Expected rope_freqs.weight to be Llama 3's divisors, got others", {
    field: 'rope_freqs.weight',
  });
}
