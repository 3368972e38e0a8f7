import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { LinearWeights } from '@int-flash/ops';
import { dequantizePerGroupInt4 } from '@int-flash/quant';
import { relativeL2 } from '@int-flash/reference';
import { afterAll, describe, expect, it } from 'vitest';
import { GgufCheckpoint } from '../src/gguf-checkpoint.js';
import { GgufMetadata } from '../src/gguf-metadata.js';
import { readGgufTokenizer } from '../src/gguf-tokenizer.js';
import { loadModel, openModel } from '../src/index.js';
import { loadWeights } from '../src/model-weights.js';
import type { WeightSource } from '../src/weight-source.js';
import { convertToGguf, tokenizerJsonOf } from './convert-to-gguf.js';
import { type GgufTyped, writeGguf } from './write-gguf.js';

const goldens = fileURLToPath(new URL('./goldens/', import.meta.url));
const demo = fileURLToPath(new URL('../../../models/int-flash-demo/', import.meta.url));
const folder = mkdtempSync(join(tmpdir(), 'int-flash-gguf-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

function store(bytes: Uint8Array, name = 'model.gguf'): string {
  const path = join(folder, name);
  writeFileSync(path, bytes);
  return path;
}

const fp32 = { backend: 'portable', attention: 'fp32', kvCacheDtype: 'fp32' } as const;

describe('models', () => {
  const cases = [
    ['llama', 'llama'],
    ['llama-linear-rope', 'llama'],
    ['llama-llama3-rope', 'llama'],
    ['mistral-sliding', 'llama'],
    ['qwen2', 'qwen2'],
    ['qwen3', 'qwen3'],
  ] as const;

  // The bound and the golden logits are those of the safetensors models (transformer-parity.test.ts).
  it.each(cases)('%s as F32: the logits of transformers', async (name, architecture) => {
    const golden = JSON.parse(readFileSync(`${goldens}${name}/golden.json`, 'utf8'));
    await using model = await loadModel(store(await convertToGguf(goldens + name, 'f32', { architecture })), fp32);
    for (const { ids, logits } of golden.prompts as { ids: number[]; logits: number[] }[]) {
      const got = (await model.logits(ids)).subarray(-model.config.vocabSize);
      expect(Math.max(...logits.map((value, id) => Math.abs(value - got[id]!)))).toBeLessThan(5e-5);
    }
  });

  // Of a block of 32 normal numbers the largest is about 2.1 deviations: steps of 1/127 and 1/8 of it, uniform noise of step / √12.
  it.each([
    ['f16', 0, 0], // the golden model's weights are bfloat16 numbers that float16 has, too
    ['bf16', 0, 0],
    ['q8_0', 0.004, 0.006],
    ['q4_0', 0.06, 0.095],
  ] as const)('llama as %s: weights as close as its steps allow', async (type, least, largest) => {
    await using exact = await GgufCheckpoint.open(
      store(await convertToGguf(`${goldens}llama`, 'f32', { architecture: 'llama' })),
    );
    await using rounded = await GgufCheckpoint.open(
      store(await convertToGguf(`${goldens}llama`, type, { architecture: 'llama' }), `${type}.gguf`),
    );
    const { hiddenSize, intermediateSize, heads, headDim } = exact.config;
    for (const [name, shape] of [
      ['model.layers.1.self_attn.q_proj.weight', [heads * headDim, hiddenSize]],
      ['model.layers.0.mlp.gate_proj.weight', [intermediateSize, hiddenSize]],
    ] as const) {
      const error = relativeL2(await rounded.readFloats(name, shape), await exact.readFloats(name, shape));
      expect(error, name).toBeGreaterThanOrEqual(least);
      expect(error, name).toBeLessThanOrEqual(largest);
    }
  });

  it('Q4_0 stays INT4, with the logits of the widened weights but for activations in INT8', async () => {
    const path = store(await convertToGguf(`${goldens}llama`, 'q4_0', { architecture: 'llama' }), 'stays.gguf');
    await using source = await GgufCheckpoint.open(path);
    const { hiddenSize, heads, headDim } = source.config;
    const shape = { rows: heads * headDim, cols: hiddenSize, bias: false };
    const name = 'model.layers.1.self_attn.q_proj';
    const linear = await source.readLinear(name, shape);
    expect(linear.type).toBe('int4');
    const widened = linear.type === 'int4' ? dequantizePerGroupInt4(linear) : undefined;
    expect(widened).toEqual(await source.readFloats(`${name}.weight`, [shape.rows, shape.cols]));
    const floats = { attention: 'fp32', kvCacheDtype: 'fp32' } as const;
    await using exact = await loadModel(path, { ...floats, linear: 'fp32' });
    await using coded = await loadModel(path, floats);
    const ids = [5, 9, 2, 7, 11, 3];
    expect(relativeL2(await coded.logits(ids), await exact.logits(ids))).toBeLessThan(0.02);
  });

  it('Q8_0 becomes INT8 rows, unless floats are asked for', async () => {
    const path = store(await convertToGguf(`${goldens}llama`, 'q8_0', { architecture: 'llama' }), 'becomes.gguf');
    const floats = { attention: 'fp32', kvCacheDtype: 'fp32' } as const;
    await using widened = await loadModel(path, { ...floats, linear: 'fp32' });
    await using coded = await loadModel(path, floats);
    const ids = [5, 9, 2, 7, 11, 3];
    const error = relativeL2(await coded.logits(ids), await widened.logits(ids));
    expect(error).toBeGreaterThan(0.001); // what INT8 weights and activations cost a model as small
    expect(error).toBeLessThan(0.03);
  });

  it('parts of one layer in several quantized types become INT8 rows, not float32', async () => {
    const open = async (type: 'q4_0' | 'q8_0') =>
      GgufCheckpoint.open(
        store(await convertToGguf(`${goldens}llama`, type, { architecture: 'llama' }), `part-${type}.gguf`),
      );
    await using fours = await open('q4_0');
    await using eights = await open('q8_0');
    const source: WeightSource = {
      folder: fours.folder,
      config: fours.config,
      fileBytes: fours.fileBytes,
      entries: () => fours.entries(),
      readFloats: (name, shape) => fours.readFloats(name, shape),
      readLinear: (name, shape) => (name.endsWith('v_proj') ? eights : fours).readLinear(name, shape),
      isQuantized: (name) => fours.isQuantized(name),
      close: async () => {},
      [Symbol.asyncDispose]: async () => {},
    };
    const made: string[] = [];
    const backend = {
      createLinear: ({ type }: LinearWeights) => {
        made.push(type);
        return { dispose() {} };
      },
    };
    const weights = await loadWeights(source, backend as never, 'auto');
    weights.dispose();
    expect(made.slice(0, 3)).toEqual(['int8', 'int4', 'int4']); // queries, keys and values; the attention's output; gate and up
  });

  it('the shipped model as Q8_0 stays INT8, writes the same greedy text and has the same logits', async () => {
    const bytes = await convertToGguf(demo, 'int8-rows', {
      architecture: 'llama',
      tokenizerJson: await tokenizerJsonOf(demo),
    });
    const path = store(bytes, 'demo.gguf');
    await using source = await GgufCheckpoint.open(path);
    const linear = await source.readLinear('model.layers.0.self_attn.q_proj', { rows: 384, cols: 384, bias: false });
    await source.close();
    expect(linear.type).toBe('int8');
    await using original = await loadModel(demo);
    await using model = await loadModel(path);
    const prompt = 'Once upon a time there was a little fox who';
    const ids = model.encode(prompt);
    expect(ids).toEqual(original.encode(prompt));
    // A row's scale goes into GGUF as float16, of which 2⁻¹² at most is lost. INT8 activations turn that into other codes here and there,
    // as far apart as INT8 is from float32 anyway.
    const floats = { attention: 'fp32', kvCacheDtype: 'fp32', linear: 'fp32' } as const;
    await using exact = await loadModel(demo, floats);
    await using widened = await loadModel(path, floats);
    expect(relativeL2(await widened.logits(ids), await exact.logits(ids))).toBeLessThan(2e-3);
    expect(relativeL2(await model.logits(ids), await original.logits(ids))).toBeLessThan(0.05);
    const write = async (from: typeof model) => {
      let text = '';
      for await (const part of from.generate(prompt, { temperature: 0, maxTokens: 24 })) text += part.text;
      return text;
    };
    expect(await write(widened)).toBe(await write(exact));
    expect(model.tokenizer.bosTokenId).toBe(original.tokenizer.bosTokenId);
    expect(model.config.eosTokenIds).toEqual(original.config.eosTokenIds);
  }, 120_000);

  it('says what it is, without reading weights', async () => {
    const path = store(await convertToGguf(`${goldens}qwen3`, 'q4_0', { architecture: 'qwen3' }));
    const files = await openModel(path);
    expect(files.format).toBe('gguf');
    expect(files.weights.fileBytes).toBe(readFileSync(path).length);
    expect(files.weights.entries().map(({ dtype }) => dtype)).toContain('Q4_0');
    expect(await files.readGenerationConfig()).toEqual({});
    await files.weights.close();
  });

  it.each([
    [
      'another architecture',
      { 'general.architecture': ['string', 'mamba'] },
      'ERR_UNSUPPORTED',
      /llama, qwen2, qwen3, got "mamba"/,
    ],
    [
      'no head count',
      { 'llama.attention.head_count': undefined },
      'ERR_MODEL_FORMAT',
      /llama.attention.head_count, got no such key/,
    ],
    [
      'heads a layer',
      { 'llama.attention.head_count': ['ints', [4, 2]] },
      'ERR_UNSUPPORTED',
      /the same in all layers, got 4, 2/,
    ],
    ['half a head rotated', { 'llama.rope.dimension_count': ['uint32', 4] }, 'ERR_UNSUPPORTED', /as wide as a head/],
    [
      'text for a number',
      { 'llama.block_count': ['string', '2'] },
      'ERR_MODEL_FORMAT',
      /block_count of the GGUF file to be a number/,
    ],
    ['no layers', { 'llama.block_count': ['uint32', 0] }, 'ERR_MODEL_FORMAT', /num_hidden_layers/],
  ] as const)('refuses %s', async (_name, change, code, message) => {
    const bytes = await tinyModel(change as Record<string, GgufTyped | undefined>);
    await expect(openModel(store(bytes))).rejects.toThrow(
      expect.objectContaining({ code, message: expect.stringMatching(message) }),
    );
  });

  it.each([
    ['Q8_0', 8, 34, 0],
    ['Q4_0', 2, 18, 0],
    ['Q4_K', 12, 144, 2],
    ['Q6_K', 14, 210, 208],
  ] as const)('refuses a scale of %s that is not finite', async (_name, type, size, at) => {
    const data = new Uint8Array((256 / (size < 100 ? 32 : 256)) * size);
    data[at + 1] = 0x7c; // infinity
    if (size === 144) data[4 + 4] = 1; // a minimum, or it would be 0 · infinity, which is no number either
    const files = await openModel(
      store(await tinyModel({}, { name: 'blk.0.ffn_up.weight', shape: [1, 256], type, bytes: data })),
    );
    const shape = { rows: 1, cols: 256, bias: false };
    await expect(files.weights.readLinear('model.layers.0.mlp.up_proj', shape)).rejects.toThrow(
      expect.objectContaining({
        code: 'ERR_MODEL_FORMAT',
        message: expect.stringMatching(/blk\.0\.ffn_up\.weight.*finite/),
      }),
    );
    await files.weights.close();
  });

  it('refuses to read a quantization it does not know, but lists it', async () => {
    const bytes = await tinyModel(
      {},
      { name: 'blk.0.ffn_up.weight', shape: [1, 256], type: 10, bytes: new Uint8Array(84) },
    );
    const files = await openModel(store(bytes));
    expect(files.weights.entries().find(({ name }) => name === 'blk.0.ffn_up.weight')).toMatchObject({ dtype: 'Q2_K' });
    await expect(files.weights.readFloats('model.layers.0.mlp.up_proj.weight', [1, 256])).rejects.toThrow(
      expect.objectContaining({ code: 'ERR_UNSUPPORTED', message: expect.stringMatching(/got Q2_K/) }),
    );
    await files.weights.close();
  });
});

/** The least that has a config. */
async function tinyModel(
  change: Record<string, GgufTyped | undefined>,
  extra?: Parameters<typeof writeGguf>[1][number],
) {
  const metadata: Record<string, GgufTyped | undefined> = {
    'general.architecture': ['string', 'llama'],
    'llama.block_count': ['uint32', 1],
    'llama.context_length': ['uint32', 16],
    'llama.embedding_length': ['uint32', 32],
    'llama.feed_forward_length': ['uint32', 32],
    'llama.attention.head_count': ['uint32', 4],
    'llama.attention.layer_norm_rms_epsilon': ['float32', 1e-5],
    ...change,
  };
  const kept = Object.fromEntries(Object.entries(metadata).filter(([, value]) => value !== undefined));
  const embedding = { name: 'token_embd.weight', shape: [4, 32], type: 0, bytes: new Uint8Array(512) };
  return writeGguf(kept as Record<string, GgufTyped>, extra ? [embedding, extra] : [embedding]);
}

describe('tokenizers', () => {
  const metadata = (values: Record<string, string | number | boolean | readonly (string | number)[]>) =>
    new GgufMetadata(new Map(Object.entries(values)));

  it('byte-level BPE: splits as `pre` says, merges, and puts the begin token in front', () => {
    const base = ['<s>', 'a', 'b', 'Ġ', '1', '2', 'ab', 'Ġab', '12'];
    const values = {
      'tokenizer.ggml.model': 'gpt2',
      'tokenizer.ggml.tokens': base,
      'tokenizer.ggml.token_type': base.map((_, id) => (id === 0 ? 3 : 1)),
      'tokenizer.ggml.merges': ['a b', 'Ġ ab', '1 2'],
      'tokenizer.ggml.bos_token_id': 0,
    };
    const llama = readGgufTokenizer(metadata({ ...values, 'tokenizer.ggml.pre': 'llama-bpe' }));
    expect(llama.encode('ab ab12')).toEqual([0, 6, 7, 8]); // digits in threes stay together
    expect(llama.decode(llama.encode('ab ab12'), { skipSpecialTokens: true })).toBe('ab ab12');
    const qwen = readGgufTokenizer(metadata({ ...values, 'tokenizer.ggml.pre': 'qwen2' }));
    expect(qwen.encode('ab12')).toEqual([6, 4, 5]); // one digit a piece, no begin token
    expect(readGgufTokenizer(metadata({ ...values, 'tokenizer.ggml.pre': 'gpt-2' })).encode('12')).toEqual([8]);
    expect(() => readGgufTokenizer(metadata({ ...values, 'tokenizer.ggml.pre': 'tekken' }))).toThrow(
      expect.objectContaining({ code: 'ERR_UNSUPPORTED', message: expect.stringMatching(/got "tekken"/) }),
    );
  });

  it('SentencePiece: merges by score, bytes for what has no piece', () => {
    const tokens = ['<unk>', '<s>', '</s>', '<0xC3>', '<0xA9>', '▁', 'a', 'b', '▁a', 'ab', '▁ab'];
    const values = {
      'tokenizer.ggml.model': 'llama',
      'tokenizer.ggml.tokens': tokens,
      'tokenizer.ggml.scores': [0, 0, 0, 0, 0, -10, -11, -12, -3, -1, -2],
      'tokenizer.ggml.token_type': [2, 3, 3, 6, 6, 1, 1, 1, 1, 1, 1],
      'tokenizer.ggml.bos_token_id': 1,
      'tokenizer.ggml.eos_token_id': 2,
      'tokenizer.ggml.unknown_token_id': 0,
    };
    const tokenizer = readGgufTokenizer(metadata(values));
    expect(tokenizer.encode('ab a')).toEqual([1, 10, 8]);
    expect(tokenizer.encode('é', { addSpecialTokens: false })).toEqual([5, 3, 4]);
    expect(tokenizer.decode([10, 8, 3, 4])).toBe('ab aé');
    expect(tokenizer.eosTokenId).toBe(2);
    expect(() => readGgufTokenizer(metadata({ ...values, 'tokenizer.ggml.scores': [1] }))).toThrow(/11 scores/);
  });

  it.each([
    ['another model', { 'tokenizer.ggml.model': 'bert' }, 'ERR_UNSUPPORTED'],
    ['two tokens alike', { 'tokenizer.ggml.tokens': ['a', 'a'] }, 'ERR_TOKENIZER'],
    ['numbers for tokens', { 'tokenizer.ggml.tokens': [1, 2] }, 'ERR_MODEL_FORMAT'],
    [
      'tokens that would take minutes to cut',
      {
        'tokenizer.ggml.model': 'llama',
        'tokenizer.ggml.tokens': Array.from({ length: 100 }, (_, i) => 'a'.repeat(4000) + i),
        'tokenizer.ggml.scores': Array.from({ length: 100 }, () => 0),
      },
      'ERR_TOKENIZER_LIMIT',
    ],
    ['a merge of unknown tokens', { 'tokenizer.ggml.merges': ['x y'] }, 'ERR_TOKENIZER'],
    ['a begin token without a token', { 'tokenizer.ggml.bos_token_id': 9 }, 'ERR_MODEL_FORMAT'],
    ['a template that is a number', { 'tokenizer.chat_template': 5 }, 'ERR_MODEL_FORMAT'],
    ['a tokenizer.json that is an array', { 'tokenizer.huggingface.json': '[]' }, 'ERR_MODEL_FORMAT'],
  ] as const)('refuses %s', (_name, change, code) => {
    const values = {
      'tokenizer.ggml.model': 'gpt2',
      'tokenizer.ggml.pre': 'gpt-2',
      'tokenizer.ggml.tokens': ['a', 'b'],
      'tokenizer.ggml.merges': [],
      ...change,
    };
    expect(() => readGgufTokenizer(metadata(values))).toThrow(expect.objectContaining({ code }));
  });
});
