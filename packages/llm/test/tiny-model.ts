import { Random } from '../src/random.js';

/** A Llama small enough that a thousand answers cost seconds; contexts beyond 1,024 tokens, where backends split the keys into runs. */
export const TINY_SHAPE = {
  model_type: 'llama',
  vocab_size: 97,
  hidden_size: 32,
  num_hidden_layers: 1,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  head_dim: 8,
  intermediate_size: 48,
  max_position_embeddings: 2048,
  rms_norm_eps: 1e-6,
};

/** Numbers and its token ids at random, the same ones for the same seed. */
export function tinyDraws(seed: number) {
  const random = new Random(seed);
  const integer = (below: number) => Math.floor(random.next() * below);
  const tokens = (length: number) => Array.from({ length }, () => 2 + integer(95));
  return { integer, tokens };
}
