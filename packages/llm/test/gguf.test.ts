import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { LinearWeights } from '@int-flash/ops';
import { dequantizePerGroupInt4 } from '@int-flash/quant';
import { relativeL2 } from '@int-flash/reference';
import { afterAll, describe, expect, it } from 'vitest';
import { dequantizeGgml, exactInt8Rows, int4Groups } from '../src/ggml-types.js';
import { GgufCheckpoint } from '../src/gguf-checkpoint.js';
import { GgufMetadata } from '../src/gguf-metadata.js';
import { readGgufTokenizer } from '../src/gguf-tokenizer.js';
import { loadModel, openModel } from '../src/index.js';
import { loadWeights } from '../src/model-weights.js';
import type { WeightSource } from '../src/weight-source.js';
import { convertToGguf, tokenizerJsonOf } from './convert-to-gguf.js';
import { GGML, type GgufTyped, int8RowsAsQ8, writeGguf } from './write-gguf.js';

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

describe('ggml blocks', () => {
  it('Q8_0 and Q4_0 stand for the numbers worked out by hand', () => {
    const q8 = new Uint8Array(34);
    q8.set([0x00, 0x38, 2, 0xff]); // scale 0.5; codes 2, -1, 0, …
    expect([...dequantizeGgml('Q8_0', q8)].slice(0, 3)).toEqual([1, -0.5, 0]);
    const q4 = new Uint8Array(18);
    q4.set([0x00, 0x3c, 0xf9]); // scale 1; element 0 is 9 - 8, element 16 is 15 - 8, the others 0 - 8
    const values = [...dequantizeGgml('Q4_0', q4)];
    expect([values[0], values[16], values[1]]).toEqual([1, 7, -8]);
    const numbers = Float32Array.of(1.5, -2, 0.25);
    expect(dequantizeGgml('F32', GGML.f32.encode(numbers))).toEqual(numbers);
    expect(dequantizeGgml('F16', GGML.f16.encode(numbers))).toEqual(numbers);
    expect(dequantizeGgml('BF16', GGML.bf16.encode(numbers))).toEqual(numbers);
  });

  it('Q4_0 is INT4 in groups of 32, whatever the sign of its scales', () => {
    const bytes = Uint8Array.from({ length: 4 * 18 }, (_, i) => (i * 37 + 11) & 255);
    for (const [block, scale] of [0x3800, 0xb400, 0x0000, 0xbc01].entries())
      bytes.set([scale & 255, scale >> 8], block * 18); // 0.5, -0.25, 0, a little below -1
    const { packed, scales } = int4Groups(bytes);
    expect(dequantizePerGroupInt4({ packed, scales, group: 32 })).toEqual(dequantizeGgml('Q4_0', bytes));
  });

  it('Q4_1, Q5_1, Q5_0, Q4_K, Q5_K and Q6_K stand for the numbers worked out by hand', () => {
    const q4 = new Uint8Array(20);
    q4.set([0x00, 0x38, 0x00, 0xbc, 0xf9]); // scale 0.5, minimum -1; element 0 is 9, element 16 is 15, the others 0
    const halves = dequantizeGgml('Q4_1', q4);
    expect([halves[0], halves[16], halves[1]]).toEqual([3.5, 6.5, -1]);
    const q51 = new Uint8Array(24);
    q51.set([0x00, 0x38, 0x00, 0xbc, 0b0000_0001, 0, 0, 0, 0xf9]); // the same, with the fifth bit of element 0
    const ones = dequantizeGgml('Q5_1', q51);
    expect([ones[0], ones[16], ones[1]]).toEqual([11.5, 6.5, -1]);

    const q5 = new Uint8Array(22);
    q5.set([0x00, 0x3c, 0b0000_0010, 0, 0b0000_0001, 0, 0x3f, 0x05]); // scale 1; fifth bits of elements 1 and 16
    const fives = dequantizeGgml('Q5_0', q5);
    expect([fives[0], fives[1], fives[16], fives[17]]).toEqual([15 - 16, 21 - 16, 19 - 16, 0 - 16]);

    const d = [0x00, 0x3c]; // 1
    const dmin = [0x00, 0x38]; // 0.5
    // Part 0 has scale 3 and minimum 2, part 5 scale 45 and minimum 37: low halves in byte 9, two bits each above bytes 1 and 5.
    const factors = [3, (45 >> 4) << 6, 0, 0, 2, (37 >> 4) << 6, 0, 0, 0, (45 & 15) | ((37 & 15) << 4), 0, 0];
    const q4k = new Uint8Array(144);
    q4k.set([...d, ...dmin, ...factors]);
    q4k[16] = 0x07; // element 0 of part 0
    q4k[16 + 2 * 32 + 31] = 0x90; // element 31 of part 5
    const fours = dequantizeGgml('Q4_K', q4k);
    expect([fours[0], fours[1], fours[5 * 32 + 31]]).toEqual([3 * 7 - 1, -1, 45 * 9 - 18.5]);

    const q5k = new Uint8Array(176);
    q5k.set([...d, ...dmin, ...factors]);
    q5k[16] = 0b0000_0001; // the fifth bit of element 0 of part 0
    q5k[16 + 31] = 0b0010_0000; // that of element 31 of part 5
    q5k[48] = 0x07;
    q5k[48 + 2 * 32 + 31] = 0x90;
    const fivesK = dequantizeGgml('Q5_K', q5k);
    expect([fivesK[0], fivesK[1], fivesK[5 * 32 + 31]]).toEqual([3 * 23 - 1, -1, 45 * 25 - 18.5]);

    const q6k = new Uint8Array(210);
    q6k.set(d, 208);
    q6k.set([5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xfd], 192); // scales: 5 of elements 0 to 15, -3 of 208 to 223
    q6k[0] = 0x0b;
    q6k[128] = 0b0000_0011; // element 0: 11 + 48
    q6k[64 + 20] = 0x60;
    q6k[128 + 32 + 20] = 0b0010_0000; // element 212, run 2 of the second half: 6 + 32
    const sixes = dequantizeGgml('Q6_K', q6k);
    expect([sixes[0], sixes[1], sixes[212], sixes[213]]).toEqual([5 * (59 - 32), 5 * -32, -3 * (38 - 32), -3 * -32]);
  });

  it('Q8_0 is INT8 rows exactly where a row has one scale and no -128', () => {
    const codes = Int8Array.from({ length: 128 }, (_, i) => (i % 255) - 127);
    const scales = Float32Array.of(0.5, 0.25);
    const bytes = int8RowsAsQ8(codes, scales, 64);
    expect(exactInt8Rows(bytes, 2, 64)).toEqual({ codes, scales });
    const other = bytes.slice();
    other[34] = 1; // the second block of row 0 gets another scale
    expect(exactInt8Rows(other, 2, 64)).toBeUndefined();
    const least = bytes.slice();
    least[2] = 0x80;
    expect(exactInt8Rows(least, 2, 64)).toBeUndefined();
  });
});

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
