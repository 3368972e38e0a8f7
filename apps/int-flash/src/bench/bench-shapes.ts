/** Shapes of well-known models, as their config.json have them. */
export const BENCH_SHAPES = {
  'llama-3.2-1b': {
    model_type: 'llama',
    vocab_size: 128256,
    hidden_size: 2048,
    num_hidden_layers: 16,
    num_attention_heads: 32,
    num_key_value_heads: 8,
    head_dim: 64,
    intermediate_size: 8192,
    max_position_embeddings: 131072,
    rms_norm_eps: 1e-5,
    rope_theta: 500000,
    tie_word_embeddings: true,
  },
  'llama-3.1-8b': {
    model_type: 'llama',
    vocab_size: 128256,
    hidden_size: 4096,
    num_hidden_layers: 32,
    num_attention_heads: 32,
    num_key_value_heads: 8,
    head_dim: 128,
    intermediate_size: 14336,
    max_position_embeddings: 131072,
    rms_norm_eps: 1e-5,
    rope_theta: 500000,
    tie_word_embeddings: false,
  },
  'qwen3-8b': {
    model_type: 'qwen3',
    vocab_size: 151936,
    hidden_size: 4096,
    num_hidden_layers: 36,
    num_attention_heads: 32,
    num_key_value_heads: 8,
    head_dim: 128,
    intermediate_size: 12288,
    max_position_embeddings: 40960,
    rms_norm_eps: 1e-6,
    rope_theta: 1000000,
    tie_word_embeddings: false,
  },
  'qwen3-0.6b': {
    model_type: 'qwen3',
    vocab_size: 151936,
    hidden_size: 1024,
    num_hidden_layers: 28,
    num_attention_heads: 16,
    num_key_value_heads: 8,
    head_dim: 128,
    intermediate_size: 3072,
    max_position_embeddings: 40960,
    rms_norm_eps: 1e-6,
    rope_theta: 1000000,
    tie_word_embeddings: true,
  },
} as const;

export type BenchShape = keyof typeof BENCH_SHAPES;
export const BENCH_SHAPE_NAMES = Object.keys(BENCH_SHAPES) as BenchShape[];

/** Memory while it loads: INT8 layers twice (made, then copied by the backend), the float32 embedding twice (looked up, and for logits). */
export function loadingBytes(shape: BenchShape): number {
  const {
    vocab_size: vocabulary,
    hidden_size: hidden,
    num_hidden_layers: layers,
    num_attention_heads: heads,
    num_key_value_heads: kvHeads,
    head_dim: headDim,
    intermediate_size: intermediate,
  } = BENCH_SHAPES[shape];
  const layer = hidden * (2 * (heads + kvHeads) * headDim + 3 * intermediate);
  return layers * layer + 2 * layer + 2 * 4 * vocabulary * hidden + vocabulary * hidden;
}
