import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { parseGenerationConfig } from '../src/generation-config.js';
import type { JsonObject } from '../src/json-file.js';
import { ARCHITECTURES, parseModelConfig } from '../src/model-config.js';
import { writeQuantizationConfig } from '../src/quantization-config.js';

const golden = (name: string): JsonObject =>
  JSON.parse(readFileSync(new URL(`goldens/${name}/config.json`, import.meta.url), 'utf8'));
const llama = golden('llama');
const without = (json: JsonObject, ...keys: string[]): JsonObject =>
  Object.fromEntries(Object.entries(json).filter(([key]) => !keys.includes(key)));

describe('parseModelConfig', () => {
  it('reads Llama', () => {
    expect(parseModelConfig(llama)).toEqual({
      architecture: 'llama',
      vocabSize: 97,
      hiddenSize: 32,
      layers: 2,
      heads: 4,
      kvHeads: 2,
      headDim: 8,
      intermediateSize: 48,
      maxPositions: 256,
      norm: { type: 'rms', epsilon: 1e-6 },
      position: { type: 'rope', rotaryDim: 8, theta: 10_000, scaling: { type: 'default' } },
      mlp: { type: 'gated', activation: 'silu', bias: false },
      qkvBias: false,
      attentionOutputBias: false,
      qkNorm: false,
      slidingWindows: [null, null],
      tiedEmbeddings: false,
      transposedWeights: false,
      bosTokenId: 0,
      eosTokenIds: [1],
      quantization: undefined,
    });
  });

  it('reads what sets the other architectures apart', () => {
    expect(parseModelConfig(golden('mistral-sliding'))).toMatchObject({
      architecture: 'mistral',
      slidingWindows: [16, 16],
    });
    expect(parseModelConfig(golden('qwen2'))).toMatchObject({
      architecture: 'qwen2',
      qkvBias: true,
      attentionOutputBias: false,
      qkNorm: false,
      tiedEmbeddings: true,
    });
    expect(parseModelConfig(golden('qwen3'))).toMatchObject({
      architecture: 'qwen3',
      qkNorm: true,
      qkvBias: false,
      headDim: 16,
    });
    expect(parseModelConfig(golden('llama-linear-rope'))).toMatchObject({
      qkvBias: true,
      attentionOutputBias: true,
      mlp: { bias: true },
    });
    expect(parseModelConfig(golden('gpt2'))).toMatchObject({
      architecture: 'gpt2',
      hiddenSize: 32,
      headDim: 8,
      kvHeads: 4,
      intermediateSize: 128,
      norm: { type: 'layer', epsilon: 1e-5 },
      position: { type: 'learned' },
      mlp: { type: 'plain', activation: 'gelu-tanh', bias: true },
      qkvBias: true,
      tiedEmbeddings: true,
      transposedWeights: true,
    });
  });

  it.each([
    ['transformers 5', { rope_parameters: { rope_type: 'linear', factor: 4, rope_theta: 5e5 } }],
    ['transformers 4', { rope_theta: 5e5, rope_scaling: { rope_type: 'linear', factor: 4 } }],
    ['before 4.43', { rope_theta: 5e5, rope_scaling: { type: 'linear', factor: 4 } }],
  ])('reads the rotary embedding as %s writes it', (_, fields) => {
    const config = parseModelConfig({ ...without(llama, 'rope_parameters'), ...fields });
    expect(config.position).toEqual({ type: 'rope', rotaryDim: 8, theta: 5e5, scaling: { type: 'linear', factor: 4 } });
  });

  it('reads llama3 and yarn scaling', () => {
    expect(parseModelConfig(golden('llama-llama3-rope')).position).toMatchObject({
      scaling: { type: 'llama3', factor: 8, lowFreqFactor: 1, highFreqFactor: 4, originalMaxPositions: 32 },
    });
    expect(parseModelConfig(golden('llama-yarn')).position).toMatchObject({
      scaling: { type: 'yarn', factor: 4, originalMaxPositions: 64, betaFast: 32, betaSlow: 1, truncate: true },
    });
    const stretched = { rope_type: 'yarn', original_max_position_embeddings: 32, attention_factor: 1.2 };
    expect(parseModelConfig({ ...llama, rope_parameters: stretched }).position).toMatchObject({
      scaling: { factor: 8, attentionFactor: 1.2 }, // 256 positions from 32
    });
  });

  it('puts Qwen’s window on the layers that have one', () => {
    const qwen = {
      ...without(golden('qwen2'), 'layer_types'),
      num_hidden_layers: 4,
      max_window_layers: 2,
      sliding_window: 8,
    };
    expect(parseModelConfig({ ...qwen, use_sliding_window: false }).slidingWindows).toEqual([null, null, null, null]);
    expect(parseModelConfig({ ...qwen, use_sliding_window: true }).slidingWindows).toEqual([null, null, 8, 8]);
    const layer_types = ['sliding_attention', 'full_attention', 'sliding_attention', 'full_attention'];
    expect(parseModelConfig({ ...qwen, use_sliding_window: true, layer_types }).slidingWindows).toEqual([
      8,
      null,
      8,
      null,
    ]);
    expect(parseModelConfig({ ...llama, sliding_window: 8 }).slidingWindows).toEqual([null, null]); // Llama knows no window
    expect(parseModelConfig({ ...golden('mistral-sliding'), sliding_window: null }).slidingWindows).toEqual([
      null,
      null,
    ]);
  });

  it('fills in what a config leaves out', () => {
    const bare = without(
      llama,
      'head_dim',
      'num_key_value_heads',
      'hidden_act',
      'tie_word_embeddings',
      'rope_parameters',
      'eos_token_id',
    );
    expect(parseModelConfig(bare)).toMatchObject({
      headDim: 8,
      kvHeads: 4,
      mlp: { activation: 'silu' },
      tiedEmbeddings: false,
      position: { theta: 10_000, scaling: { type: 'default' } },
      eosTokenIds: [],
    });
    expect(parseModelConfig({ ...llama, eos_token_id: [1, 3] }).eosTokenIds).toEqual([1, 3]);
    expect(parseModelConfig(without(llama, 'architectures')).architecture).toBe('llama');
  });

  it('names what it supports when it meets another architecture', () => {
    for (const fields of [
      { architectures: ['MambaForCausalLM'] },
      { architectures: [], model_type: 't5' },
      { model_type: 'qwen2' },
    ]) {
      const parse = () => parseModelConfig({ ...llama, ...fields });
      expect(parse).toThrow(expect.objectContaining({ code: 'ERR_UNSUPPORTED' }));
      for (const name of ARCHITECTURES) expect(parse).toThrow(new RegExp(name));
    }
    expect(() => parseModelConfig({ architectures: ['Mamba'] })).toThrow(/, got "Mamba"$/);
    expect(() => parseModelConfig({})).toThrow(/, got neither architectures nor model_type$/);
    expect(() => parseModelConfig({ architectures: ['constructor'] })).toThrow(
      expect.objectContaining({ code: 'ERR_UNSUPPORTED' }),
    );
  });

  it.each([
    ['hidden_size', 0, 'ERR_MODEL_FORMAT'],
    ['hidden_size', -32, 'ERR_MODEL_FORMAT'],
    ['hidden_size', 32.5, 'ERR_MODEL_FORMAT'],
    ['hidden_size', '32', 'ERR_MODEL_FORMAT'],
    ['hidden_size', null, 'ERR_MODEL_FORMAT'],
    ['hidden_size', 1e9, 'ERR_MODEL_LIMIT'],
    ['num_hidden_layers', 1e6, 'ERR_MODEL_LIMIT'],
    ['vocab_size', 2 ** 32, 'ERR_MODEL_LIMIT'],
    ['num_attention_heads', 0, 'ERR_MODEL_FORMAT'],
    ['num_key_value_heads', 3, 'ERR_MODEL_FORMAT'],
    ['max_position_embeddings', 0, 'ERR_MODEL_FORMAT'],
    ['head_dim', 12, 'ERR_UNSUPPORTED'],
    ['head_dim', 512, 'ERR_UNSUPPORTED'],
    ['rms_norm_eps', -1, 'ERR_MODEL_FORMAT'],
    ['rms_norm_eps', '1e-6', 'ERR_MODEL_FORMAT'],
    ['hidden_act', 'relu2', 'ERR_UNSUPPORTED'],
    ['hidden_act', 'constructor', 'ERR_UNSUPPORTED'],
    ['tie_word_embeddings', 1, 'ERR_MODEL_FORMAT'],
    ['eos_token_id', 97, 'ERR_MODEL_FORMAT'],
    ['eos_token_id', [-1], 'ERR_MODEL_FORMAT'],
    ['partial_rotary_factor', 0.5, 'ERR_UNSUPPORTED'],
    ['rope_parameters', 'default', 'ERR_MODEL_FORMAT'],
    ['rope_parameters', { rope_type: 'longrope', factor: 2 }, 'ERR_UNSUPPORTED'],
    ['rope_parameters', { rope_type: 'linear' }, 'ERR_MODEL_FORMAT'],
    ['rope_parameters', { rope_type: 'linear', factor: 0 }, 'ERR_MODEL_FORMAT'],
    ['rope_parameters', { rope_theta: -1 }, 'ERR_MODEL_FORMAT'],
    ['rope_parameters', { full_attention: {}, sliding_attention: {} }, 'ERR_UNSUPPORTED'],
    ['quantization_config', { quant_method: 'gptq' }, 'ERR_UNSUPPORTED'],
    ['quantization_config', { quant_method: 'compressed-tensors', format: 'pack-quantized' }, 'ERR_UNSUPPORTED'],
  ])('refuses %s = %j', (field, value, code) => {
    const parse = () => parseModelConfig({ ...llama, [field]: value });
    expect(parse).toThrow(expect.objectContaining({ code }));
    expect(parse).toThrow(expect.objectContaining({ field: expect.stringContaining(field) }));
  });
});

describe('quantization_config', () => {
  const written = writeQuantizationConfig(['lm_head'], { format: 'int-quantized' }) as Record<string, unknown>;
  const group = (written.config_groups as { group_0: Record<string, object> }).group_0;
  const parse = (config: unknown) => parseModelConfig({ ...llama, quantization_config: config }).quantization;

  it('is read back as written', () => expect(parse(written)).toEqual({ format: 'int-quantized', ignore: ['lm_head'] }));

  it('is read back as written, in 4 bits', () => {
    const int4 = { format: 'pack-quantized', group: 64 } as const;
    expect(parse(writeQuantizationConfig([], int4))).toEqual({ ...int4, ignore: [] });
  });

  it.each([
    ['a scale a row', { strategy: 'channel' }],
    ['groups of 48', { group_size: 48 }],
    ['columns in an order of their own', { actorder: 'group' }],
    ['8 bits', { num_bits: 8 }],
    ['zero points', { symmetric: false }],
  ])('refuses packed weights with %s', (_, changed) => {
    const int4 = writeQuantizationConfig([], { format: 'pack-quantized', group: 64 }) as Record<string, unknown>;
    const { weights, ...rest } = (int4.config_groups as { group_0: Record<string, object> }).group_0;
    const parsed = () =>
      parse({ ...int4, config_groups: { group_0: { ...rest, weights: { ...weights, ...changed } } } });
    expect(parsed).toThrow(expect.objectContaining({ code: 'ERR_UNSUPPORTED' }));
  });

  it('takes weights alone', () => {
    const read = parse({ ...written, config_groups: { group_0: { ...group, input_activations: null } } });
    expect(read).toEqual({ format: 'int-quantized', ignore: ['lm_head'] });
  });

  it.each([
    ['int4 weights', { ...group, weights: { ...group.weights, num_bits: 4 } }],
    ['float weights', { ...group, weights: { ...group.weights, type: 'float' } }],
    ['asymmetric weights', { ...group, weights: { ...group.weights, symmetric: false } }],
    ['a scale for the whole tensor', { ...group, weights: { ...group.weights, strategy: 'tensor' } }],
    ['groups of columns', { ...group, weights: { ...group.weights, strategy: 'group', group_size: 128 } }],
    ['static activations', { ...group, input_activations: { ...group.input_activations, dynamic: false } }],
    ['quantized outputs', { ...group, output_activations: {} }],
    ['only some layers', { ...group, targets: ['re:.*q_proj'] }],
  ])('refuses %s', (_, changed) => {
    expect(() => parse({ ...written, config_groups: { group_0: changed } })).toThrow(
      expect.objectContaining({ code: 'ERR_UNSUPPORTED' }),
    );
  });
});

describe('parseGenerationConfig', () => {
  it('reads what is there', () => {
    const json = {
      do_sample: true,
      temperature: 0.9,
      top_p: 0.92,
      top_k: 40,
      max_new_tokens: 256,
      eos_token_id: [1, 2],
      pad_token_id: 1,
    };
    expect(parseGenerationConfig(json, 10)).toEqual({
      doSample: true,
      temperature: 0.9,
      topP: 0.92,
      topK: 40,
      maxTokens: 256,
      eosTokenIds: [1, 2],
    });
    expect(parseGenerationConfig({ temperature: null }, 10)).toEqual({});
  });

  it.each([
    ['temperature', 'hot'],
    ['temperature', -1],
    ['top_p', 1.5],
    ['top_k', -1],
    ['top_k', 1.5],
    ['eos_token_id', 10],
  ])('refuses %s = %j', (field, value) => {
    expect(() => parseGenerationConfig({ [field]: value }, 10)).toThrow(
      expect.objectContaining({ code: 'ERR_MODEL_FORMAT', field }),
    );
  });
});
