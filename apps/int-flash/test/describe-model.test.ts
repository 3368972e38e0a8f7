import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { describeModel, modelFacts } from '../src/describe-model.js';
import { findModel } from '../src/model-folder.js';
import { DEMO_MODEL, runCommand } from './run-command.js';
import { tinyGguf } from './tiny-gguf.js';

const folder = mkdtempSync(join(tmpdir(), 'int-flash-describe-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const METADATA = {
  'general.architecture': 'qwen2',
  'qwen2.block_count': 1,
  'qwen2.context_length': 256,
  'qwen2.embedding_length': 32,
  'qwen2.feed_forward_length': 64,
  'qwen2.attention.head_count': 4,
  'qwen2.attention.head_count_kv': 2,
  'qwen2.attention.layer_norm_rms_epsilon': 1e-6,
  'tokenizer.ggml.model': 'gpt2',
  'tokenizer.ggml.pre': 'qwen2',
  'tokenizer.ggml.tokens': ['a', 'b', 'ab', '<end>'],
  'tokenizer.ggml.token_type': [1, 1, 1, 3],
  'tokenizer.ggml.merges': ['a b'],
  'tokenizer.ggml.eos_token_id': 3,
};

describe('describeModel', () => {
  it('tells a GGUF file from its header, before its weights would have to make sense', async () => {
    const path = join(folder, 'tiny.gguf');
    const q4 = { type: 2, bytes: 18 * 32 };
    const tensors = [
      { name: 'token_embd.weight', shape: [4, 32], type: 1, bytes: 256 },
      { name: 'blk.0.attn_q.weight', shape: [32, 32], ...q4 },
    ] as const;
    writeFileSync(path, tinyGguf(METADATA, tensors));
    expect(findModel(path, {})).toBe(path);
    const model = await describeModel(path);
    expect(model).toMatchObject({
      name: 'tiny.gguf',
      architecture: 'qwen2',
      quantization: 'gguf',
      weights: 'Q4_0',
      parameters: 4 * 32 + 32 * 32,
      contextLength: 256,
      kvHeads: 2,
      headDim: 8,
      tiedEmbeddings: true,
      vocabularySize: 4,
      specialTokens: [{ id: 3, text: '<end>', role: 'eos' }],
      chatTemplate: false,
    });
    expect(model.tensors[1]).toEqual({ name: 'blk.0.attn_q.weight', dtype: 'Q4_0', shape: [32, 32], bytes: 576 });
  });

  it('counts the codes of INT4 layers, not the words that hold eight of them', () => {
    const layer = 'model.layers.0.mlp.up_proj.weight';
    const entries = [
      { name: 'model.embed_tokens.weight', dtype: 'BF16', shape: [10, 64], byteLength: 1280 },
      { name: `${layer}_packed`, dtype: 'I32', shape: [32, 8], byteLength: 1024 },
      { name: `${layer}_scale`, dtype: 'BF16', shape: [32, 2], byteLength: 128 },
      { name: `${layer}_shape`, dtype: 'I64', shape: [2], byteLength: 16 },
    ];
    const config = { architecture: 'llama', maxPositions: 64, vocabSize: 10 };
    const weights = { folder: '/models/tiny', fileBytes: 2448, config, entries: () => entries };
    expect(modelFacts(weights as never)).toMatchObject({ parameters: 10 * 64 + 32 * 64, weights: 'int4' });
  });

  it('says of a folder what it said before', async () => {
    expect(await describeModel(DEMO_MODEL)).toMatchObject({
      architecture: 'llama',
      weights: 'int8',
      quantization: 'compressed-tensors int-quantized',
      chatTemplate: true,
    });
  });
});

describe('the command', () => {
  it('inspect prints a GGUF file, and refuses a broken one in a line', async () => {
    const path = join(folder, 'whole.gguf');
    writeFileSync(path, tinyGguf(METADATA, [{ name: 'token_embd.weight', shape: [4, 32], type: 0, bytes: 512 }]));
    const { code, stdout, stderr } = await runCommand(['inspect', path]);
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
    expect(stdout).toMatch(/token_embd\.weight +F32 +\[4, 32\] +512 B/);
    const wicked = { name: 'a\nb\t\u001b[31mc\u202ed\u2066e', shape: [4, 32], type: 0, bytes: 512 } as const;
    const embeddings = { name: 'token_embd.weight', shape: [4, 32], type: 0, bytes: 512 } as const;
    writeFileSync(
      path,
      tinyGguf({ ...METADATA, 'tokenizer.ggml.tokens': ['a', 'b', 'ab', '<e\n\u202end>'] }, [embeddings, wicked]),
    );
    const harmless = await runCommand(['inspect', path]);
    expect(harmless.code).toBe(0);
    expect(harmless.stdout).toMatch(/^a\ufffdb\ufffd\ufffd\[31mc\ufffdd\ufffde +F32 /m);
    expect(harmless.stdout).toMatch(/<e\ufffd\ufffdnd> 3 \(eos\)/);
    const broken = join(folder, 'broken.gguf');
    writeFileSync(broken, 'GGUF and no more');
    const refused = await runCommand(['inspect', broken]);
    expect(refused.code).toBe(1);
    expect(refused.stderr).toMatch(/^ERR_UNSUPPORTED: Expected GGUF version 2 or 3, got \d+/);
    const absent = await runCommand(['inspect', join(folder, 'absent.gguf')]);
    expect(absent.stderr).toMatch(/^ERR_MODEL_FORMAT: .*got no such file/);
  });
});
