import { describe, expect, it } from 'vitest';
import { randomModelFiles } from '../src/random-model.js';

const SHAPE = {
  architectures: ['LlamaForCausalLM'],
  model_type: 'llama',
  vocab_size: 40,
  hidden_size: 48,
  num_hidden_layers: 1,
  num_attention_heads: 2,
  num_key_value_heads: 1,
  head_dim: 24,
  intermediate_size: 64,
  max_position_embeddings: 64,
  tie_word_embeddings: false,
};

describe('a random model', () => {
  const { weights } = randomModelFiles(SHAPE);

  it('has an embedding and an output matrix in numbers of bfloat16, as checkpoints do', async () => {
    const embedding = await weights.readFloats('model.embed_tokens.weight', [40, 48]);
    const output = await weights.readLinear('lm_head', { rows: 40, cols: 48, bias: false });
    if (output.type !== 'int8') throw new Error(`Expected codes, got ${output.type}`);
    const outputs = Float32Array.from(output.codes, (code) => code * output.scales[0]!);
    for (const values of [embedding, outputs]) {
      const bits = new Uint32Array(values.buffer);
      expect(bits.every((word) => (word & 0xffff) === 0)).toBe(true);
      expect(new Set(values).size).toBeGreaterThan(100);
    }
  });

  it('neither grows nor shrinks what a layer reads, and is the same each time', async () => {
    const shape = { rows: 64, cols: 48, bias: false };
    const layer = await weights.readLinear('model.layers.0.mlp.up_proj', shape);
    if (layer.type !== 'int8') throw new Error(`Expected codes, got ${layer.type}`);
    const squares = layer.codes.reduce((sum, code) => sum + (code * layer.scales[0]!) ** 2, 0);
    expect(squares / 64).toBeCloseTo(1, 1); // of a row
    expect(await randomModelFiles(SHAPE).weights.readLinear('model.layers.0.mlp.up_proj', shape)).toEqual(layer);
  });
});
