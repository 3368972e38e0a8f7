import { cp, mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { relativeL2, seededNormal, seededUniform } from '@int-flash/reference';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type LanguageModel, loadModel, quantizeCheckpoint } from '../src/index.js';
import type { SafetensorsTensor } from '../src/safetensors.js';
import { writeSafetensors } from '../src/safetensors-writer.js';
import { convertToGguf } from './convert-to-gguf.js';

const [VOCABULARY, HIDDEN, LAYERS, HEADS, KV_HEADS, HEAD_DIM, INTERMEDIATE] = [200, 64, 2, 4, 2, 64, 128];
/** Past token 64 · 2 a window of 70 has left the first page behind in both layers, and lies across two pages. */
const WINDOW = 70;

/** What config.json of a family has besides the shape, and how llama.cpp calls it. */
const FAMILIES = {
  llama: { architecture: 'llama', config: {} },
  mistral: { architecture: 'llama', config: { sliding_window: WINDOW } },
  qwen2: { architecture: 'qwen2', config: { tie_word_embeddings: true } },
  qwen3: { architecture: 'qwen3', config: { tie_word_embeddings: true } },
} as const;
type Family = keyof typeof FAMILIES;
const NAMES = Object.keys(FAMILIES) as Family[];

let root: string;
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), 'int-flash-families-'));
  for (const family of NAMES) await writeModel(family);
});
afterAll(() => rm(root, { recursive: true }));

/** A model folder as its family's are, with random weights and a token a letter. */
async function writeModel(family: Family): Promise<void> {
  const normal = seededNormal(seededUniform(7));
  const tensors = new Map<string, SafetensorsTensor>();
  const add = (name: string, shape: number[], size: number, around = 0) => {
    const data = Float32Array.from({ length: shape.reduce((a, b) => a * b) }, () => around + size * normal());
    tensors.set(name, { dtype: 'F32', shape, data });
  };
  const linear = (name: string, rows: number, cols: number) =>
    add(`${name}.weight`, [rows, cols], 1.2 / Math.sqrt(cols));
  add('model.embed_tokens.weight', [VOCABULARY, HIDDEN], 1);
  for (let layer = 0; layer < LAYERS; layer++) {
    const at = `model.layers.${layer}`;
    for (const [name, heads] of [
      ['q', HEADS],
      ['k', KV_HEADS],
      ['v', KV_HEADS],
    ] as const) {
      linear(`${at}.self_attn.${name}_proj`, heads * HEAD_DIM, HIDDEN);
      if (family === 'qwen2') add(`${at}.self_attn.${name}_proj.bias`, [heads * HEAD_DIM], 0.3);
    }
    linear(`${at}.self_attn.o_proj`, HIDDEN, HEADS * HEAD_DIM);
    linear(`${at}.mlp.gate_proj`, INTERMEDIATE, HIDDEN);
    linear(`${at}.mlp.up_proj`, INTERMEDIATE, HIDDEN);
    linear(`${at}.mlp.down_proj`, HIDDEN, INTERMEDIATE);
    for (const name of ['input_layernorm', 'post_attention_layernorm']) add(`${at}.${name}.weight`, [HIDDEN], 0.1, 1);
    // Far from 1, so that leaving them out would show.
    if (family === 'qwen3')
      for (const name of ['q', 'k']) add(`${at}.self_attn.${name}_norm.weight`, [HEAD_DIM], 0.5, 1);
  }
  add('model.norm.weight', [HIDDEN], 0.1, 1);
  const { config } = FAMILIES[family];
  if (!('tie_word_embeddings' in config)) add('lm_head.weight', [VOCABULARY, HIDDEN], 1);
  const shape = {
    model_type: family,
    vocab_size: VOCABULARY,
    hidden_size: HIDDEN,
    num_hidden_layers: LAYERS,
    num_attention_heads: HEADS,
    num_key_value_heads: KV_HEADS,
    head_dim: HEAD_DIM,
    intermediate_size: INTERMEDIATE,
    max_position_embeddings: 1024,
    rms_norm_eps: 1e-6,
    rope_theta: 10000,
    tie_word_embeddings: false,
  };
  const vocab = Object.fromEntries(
    Array.from({ length: VOCABULARY }, (_, id) => [String.fromCodePoint(0xf0000 + id), id]),
  );
  await mkdir(join(root, family));
  await writeFile(join(root, family, 'config.json'), JSON.stringify({ ...shape, ...config }));
  await writeFile(
    join(root, family, 'tokenizer.json'),
    JSON.stringify({ model: { type: 'BPE', vocab, merges: [] }, added_tokens: [] }),
  );
  await writeFile(join(root, family, 'model.safetensors'), writeSafetensors(tensors));
}

const random = seededUniform(3);
const tokens = (length: number) => Array.from({ length }, () => Math.floor(random() * VOCABULARY));
const PROMPT = tokens(300);
const FLOATS = { attention: 'fp32', kvCacheDtype: 'fp32', linear: 'fp32' } as const;

async function gguf(family: Family, type: Parameters<typeof convertToGguf>[1]): Promise<string> {
  const path = join(root, `${family}-${type}.gguf`);
  await writeFile(path, await convertToGguf(join(root, family), type, { architecture: FAMILIES[family].architecture }));
  return path;
}

async function withModel<T>(path: string, options: object, work: (model: LanguageModel) => Promise<T>): Promise<T> {
  await using model = await loadModel(path, options);
  return await work(model);
}

const logits = (path: string, options: object) => withModel(path, options, (model) => model.logits(PROMPT));

describe.each(NAMES)('%s', (family) => {
  const folder = () => join(root, family);

  it('has the same floats on the native and the portable backend', async () => {
    const [auto, portable] = [
      await logits(folder(), FLOATS),
      await logits(folder(), { ...FLOATS, backend: 'portable' }),
    ];
    expect(relativeL2(auto, portable)).toBeLessThan(1e-5);
  });

  it(`sees ${family === 'mistral' ? 'no more than its window' : 'all tokens'}, with every cache`, async () => {
    const [, ...rest] = PROMPT;
    const changed = [(PROMPT[0]! + 1) % VOCABULARY, ...rest];
    for (const kvCacheDtype of ['fp32', 'fp16'] as const) {
      await withModel(folder(), { ...FLOATS, kvCacheDtype }, async (model) => {
        const last = async (ids: number[]) => (await model.logits(ids)).slice(-VOCABULARY);
        const differs = relativeL2(await last(changed), await last(PROMPT));
        // Two layers see 139 tokens back; 300 are there.
        if (family === 'mistral') expect(differs).toBe(0);
        else expect(differs).toBeGreaterThan(1e-4);
      });
    }
  });

  it('is refused with fewer layers in its config than it has', async () => {
    const short = join(root, `${family}-short`);
    await cp(folder(), short, { recursive: true });
    const config = JSON.parse(await readFile(join(short, 'config.json'), 'utf8'));
    await writeFile(join(short, 'config.json'), JSON.stringify({ ...config, num_hidden_layers: LAYERS - 1 }));
    await expect(loadModel(short, FLOATS)).rejects.toMatchObject({
      code: 'ERR_MODEL_FORMAT',
      message: `Expected weights of ${LAYERS - 1} layers, as the config has it, got layer ${LAYERS - 1} besides`,
    });
  });

  // An INT4 step is 18 times as wide as an INT8 one.
  it.each([
    ['fp16', 'fp32', 2e-3],
    ['int8', 'int8', 0.05],
    ['int4', 'int8', 0.6],
  ] as const)(
    'keeps its cache in %s: logits close to float32, and the same whether read or drawn',
    async (kvCacheDtype, attention, bound) => {
      const exact = await logits(folder(), FLOATS);
      await withModel(folder(), { linear: 'fp32', attention, kvCacheDtype }, async (model) => {
        const error = relativeL2(await model.logits(PROMPT), exact);
        expect(error).toBeLessThan(bound);
        expect(error).toBeGreaterThan(bound / 50);
        expect(model.status()).toMatchObject({ attention, kvCacheDtype });
        // What is drawn a token at a time has the logits that the whole text has, up to what its own calls round.
        const drawn: number[] = [];
        const told: number[] = [];
        for await (const { tokenId, logprob } of model.generate(PROMPT, {
          maxTokens: 80,
          temperature: 0,
          ignoreEos: true,
          logprobs: 1,
        })) {
          drawn.push(tokenId);
          told.push(logprob!);
        }
        const whole = await model.logits([...PROMPT, ...drawn]);
        const reread = drawn.map((id, i) => {
          const row = whole.subarray((PROMPT.length + i - 1) * VOCABULARY, (PROMPT.length + i) * VOCABULARY);
          const highest = Math.max(...row);
          return row[id]! - highest - Math.log(row.reduce((sum, x) => sum + Math.exp(x - highest), 0));
        });
        expect(Math.max(...told.map((x, i) => Math.abs(x - reread[i]!)))).toBeLessThan(
          kvCacheDtype === 'fp16' ? 1e-3 : 0.25,
        );
      });
    },
  );

  it('says the same among others, short of pages, as alone', async () => {
    const options = { maxTokens: 50, temperature: 0, ignoreEos: true, speculate: 3 };
    const prompts = Array.from({ length: 6 }, (_, i) => [...PROMPT.slice(0, 140), ...tokens(20 + 60 * i)]);
    const say = async (model: LanguageModel, prompt: number[], speculate: number) => {
      const ids: number[] = [];
      for await (const { tokenId } of model.generate(prompt, { ...options, speculate })) ids.push(tokenId);
      return ids;
    };
    const alone = await withModel(folder(), { prefixCache: false }, async (model) => {
      const all: number[][] = [];
      for (const prompt of prompts) all.push(await say(model, prompt, 0));
      return all;
    });
    const pageBytes = LAYERS * 2 * KV_HEADS * 64 * (HEAD_DIM + 4);
    await withModel(folder(), { kvCacheBytes: 12 * pageBytes }, async (model) => {
      expect(await Promise.all(prompts.map((prompt) => say(model, prompt, 3)))).toEqual(alone);
      const { preemptions, prefixes, pages } = model.status();
      expect(preemptions).toBeGreaterThan(0);
      expect(prefixes.found).toBeGreaterThan(0);
      expect(pages.used).toBe(0);
    });
  });

  // Steps of 2^-11, 1/127 and 1/8 of a weight's block.
  it.each([
    ['f16', 2e-3],
    ['q8_0', 0.05],
    ['q4_0', 0.6],
  ] as const)('as GGUF in %s: its logits, and it writes', async (type, bound) => {
    const path = await gguf(family, type);
    const error = relativeL2(await logits(path, FLOATS), await logits(folder(), FLOATS));
    expect(error).toBeLessThan(bound);
    expect(error).toBeGreaterThan(bound / 100);
    await withModel(path, { kvCacheDtype: 'int4' }, async (model) => {
      expect(model.config.slidingWindows[0]).toBe(family === 'mistral' ? WINDOW : null);
      const generation = model.generate(PROMPT, { maxTokens: 12, ignoreEos: true });
      expect((await generation.text()).split(' ')).toHaveLength(12); // a letter a token
    });
  });

  it.each([
    [8, 0.05],
    [4, 0.6],
  ] as const)('quantized to %i bits: loads, and has its logits', async (bits, bound) => {
    const to = join(root, `${family}-int${bits}`);
    await quantizeCheckpoint(folder(), to, { bits });
    for (const backend of ['auto', 'portable'] as const) {
      const error = relativeL2(await logits(to, { ...FLOATS, backend }), await logits(folder(), FLOATS));
      expect(error).toBeLessThan(bound);
      expect(error).toBeGreaterThan(bound / 100);
    }
    await withModel(to, {}, async (model) => {
      expect(model.config.slidingWindows[0]).toBe(family === 'mistral' ? WINDOW : null);
      const generation = model.generate(PROMPT, { maxTokens: 12, ignoreEos: true });
      expect((await generation.text()).split(' ')).toHaveLength(12); // a letter a token
    });
  });
});
