import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { selectBackend } from '@int-flash/attention';
import { fromFloat32, toFloat32 } from '@int-flash/ops';
import { dequantizePerGroupInt4, dequantizePerTokenInt8, quantizePerTokenInt8 } from '@int-flash/quant';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { openCheckpoint } from '../src/checkpoint.js';
import { writeQuantizationConfig } from '../src/quantization-config.js';
import { quantizeCheckpoint } from '../src/quantize-checkpoint.js';
import { Random } from '../src/random.js';
import { readSafetensors, type SafetensorsTensor } from '../src/safetensors.js';
import { writeSafetensors } from '../src/safetensors-writer.js';
import { parseShardedIndex } from '../src/sharded-index.js';

const golden = (name: string) => fileURLToPath(new URL(`goldens/${name}`, import.meta.url));
const Q_PROJ = 'model.layers.0.self_attn.q_proj';
let root: string;
let llama: Map<string, SafetensorsTensor>;
let config: Record<string, unknown>;

beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), 'checkpoint-'));
  llama = readSafetensors(await readFile(join(golden('llama'), 'model.safetensors')));
  config = JSON.parse(await readFile(join(golden('llama'), 'config.json'), 'utf8'));
});
afterAll(() => rm(root, { recursive: true }));

/** A model folder with these files; tensors become safetensors files, other values JSON. */
async function folder(name: string, files: Record<string, unknown>): Promise<string> {
  const path = join(root, name);
  await mkdir(path);
  for (const [file, content] of Object.entries(files)) {
    await writeFile(
      join(path, file),
      content instanceof Map
        ? writeSafetensors(content)
        : typeof content === 'string'
          ? content
          : JSON.stringify(content),
    );
  }
  return path;
}

const floats = (tensor: SafetensorsTensor) => toFloat32(tensor.data as Uint16Array, 'bfloat16');

describe('openCheckpoint', () => {
  it('reads every tensor of a single file and reports progress to the last byte', async () => {
    const seen: number[] = [];
    await using checkpoint = await openCheckpoint(golden('llama'), {
      onProgress: ({ loadedBytes, totalBytes }) => seen.push(loadedBytes / totalBytes),
    });
    for (const { name, shape } of checkpoint.entries()) {
      expect(await checkpoint.readFloats(name, shape)).toEqual(floats(llama.get(name)!));
    }
    expect(seen.length).toBe(llama.size);
    expect(seen.at(-1)).toBe(1);
    expect([...seen].sort((a, b) => a - b)).toEqual(seen);
  });

  it('reads the same from shards', async () => {
    const names = [...llama.keys()];
    const weight_map = Object.fromEntries(names.map((name, i) => [name, i % 2 ? 'b.safetensors' : 'a.safetensors']));
    const part = (shard: string) => new Map([...llama].filter(([name]) => weight_map[name] === shard));
    const path = await folder('sharded', {
      'config.json': config,
      'model.safetensors.index.json': { metadata: { total_size: 1 }, weight_map },
      'a.safetensors': part('a.safetensors'),
      'b.safetensors': part('b.safetensors'),
    });
    await using checkpoint = await openCheckpoint(path);
    expect(
      checkpoint
        .entries()
        .map(({ name }) => name)
        .sort(),
    ).toEqual(names.sort());
    for (const { name, shape } of checkpoint.entries()) {
      expect(await checkpoint.readFloats(name, shape)).toEqual(floats(llama.get(name)!));
    }
  });

  it('finds tensors with and without the enclosing module’s name', async () => {
    const bare = new Map([...llama].map(([name, tensor]) => [name.replace(/^model\./, ''), tensor]));
    await using checkpoint = await openCheckpoint(
      await folder('bare', { 'config.json': config, 'model.safetensors': bare }),
    );
    const { type, rows, cols } = await checkpoint.readLinear(Q_PROJ, { rows: 32, cols: 32, bias: false });
    expect({ type, rows, cols }).toEqual({ type: 'fp32', rows: 32, cols: 32 });
  });

  it('turns GPT-2’s weights round, but not a separate output matrix', async () => {
    await using checkpoint = await openCheckpoint(golden('gpt2'));
    const name = 'transformer.h.0.mlp.c_fc';
    const linear = await checkpoint.readLinear(name, { rows: 128, cols: 32, bias: true });
    const stored = await checkpoint.readFloats(`${name}.weight`, [32, 128]);
    expect(linear.type === 'fp32' && linear.weights[5 * 32 + 3]).toBe(stored[3 * 128 + 5]);
    expect(linear.bias).toHaveLength(128);
  });

  it('gives INT8 codes and scales, and takes -128 for -127', async () => {
    const quantized = quantizePerTokenInt8(floats(llama.get(`${Q_PROJ}.weight`)!), 32);
    quantized.values[0] = -128;
    const tensors = new Map<string, SafetensorsTensor>(llama)
      .set(`${Q_PROJ}.weight`, { dtype: 'I8', shape: [32, 32], data: quantized.values })
      .set(`${Q_PROJ}.weight_scale`, {
        dtype: 'BF16',
        shape: [32, 1],
        data: fromFloat32(quantized.scales, 'bfloat16'),
      });
    const int8Config = {
      ...config,
      quantization_config: writeQuantizationConfig(['lm_head'], { format: 'int-quantized' }),
    };
    await using checkpoint = await openCheckpoint(
      await folder('int8', { 'config.json': int8Config, 'model.safetensors': tensors }),
    );
    const linear = await checkpoint.readLinear(Q_PROJ, { rows: 32, cols: 32, bias: false });
    if (linear.type !== 'int8') throw new Error('not INT8');
    expect(linear.codes[0]).toBe(-127);
    expect(linear.codes.subarray(1)).toEqual(quantized.values.subarray(1));
    expect(linear.scales).toEqual(toFloat32(fromFloat32(quantized.scales, 'bfloat16'), 'bfloat16'));
    expect((await checkpoint.readLinear('lm_head', { rows: 97, cols: 32, bias: false })).type).toBe('fp32');
  });

  it.each<[string, () => Record<string, unknown>, string]>([
    ['an empty folder', () => ({}), 'ERR_MODEL_FORMAT'],
    ['no weights', () => ({ 'config.json': config }), 'ERR_MODEL_FORMAT'],
    ['a config that is no JSON', () => ({ 'config.json': '{' }), 'ERR_MODEL_FORMAT'],
    ['a config that is an array', () => ({ 'config.json': [] }), 'ERR_MODEL_FORMAT'],
    ['a config with a key twice', () => ({ 'config.json': '{"vocab_size":1,"vocab_size":2}' }), 'ERR_MODEL_FORMAT'],
    ['a config of 65 levels', () => ({ 'config.json': `{"a":${'['.repeat(64)}${']'.repeat(64)}}` }), 'ERR_MODEL_LIMIT'],
    ['a config of 17 MB', () => ({ 'config.json': ' '.repeat(17 * 2 ** 20) }), 'ERR_MODEL_LIMIT'],
    [
      'an index without a map',
      () => ({ 'config.json': config, 'model.safetensors.index.json': {} }),
      'ERR_MODEL_FORMAT',
    ],
    [
      'a shard that is missing',
      () => ({ 'config.json': config, 'model.safetensors.index.json': { weight_map: { a: 'gone.safetensors' } } }),
      'ERR_MODEL_FORMAT',
    ],
    [
      'an index that places a tensor in the wrong shard',
      () => ({
        'config.json': config,
        'a.safetensors': new Map([['x', llama.get('model.norm.weight')!]]),
        'b.safetensors': new Map([['y', llama.get('model.norm.weight')!]]),
        'model.safetensors.index.json': { weight_map: { x: 'b.safetensors', y: 'a.safetensors' } },
      }),
      'ERR_MODEL_FORMAT',
    ],
    [
      'an index that names a tensor no shard has',
      () => ({
        'config.json': config,
        'a.safetensors': new Map([['x', llama.get('model.norm.weight')!]]),
        'model.safetensors.index.json': { weight_map: { x: 'a.safetensors', y: 'a.safetensors' } },
      }),
      'ERR_MODEL_FORMAT',
    ],
    [
      'a shard with a tensor the index does not name',
      () => ({
        'config.json': config,
        'a.safetensors': new Map([
          ['x', llama.get('model.norm.weight')!],
          ['y', llama.get('model.norm.weight')!],
        ]),
        'model.safetensors.index.json': { weight_map: { x: 'a.safetensors' } },
      }),
      'ERR_MODEL_FORMAT',
    ],
  ])('refuses %s', async (name, files, code) => {
    await expect(openCheckpoint(await folder(name, files()))).rejects.toMatchObject({
      code,
      field: expect.any(String),
    });
  });

  it('refuses tensors that the config rules out', async () => {
    const spoilt = new Map<string, SafetensorsTensor>(llama)
      .set('model.norm.weight', { dtype: 'F32', shape: [32], data: new Float32Array(32).fill(Number.NaN) })
      .set(`${Q_PROJ}.bias`, { dtype: 'F32', shape: [32], data: new Float32Array(32) })
      .set('lm_head.weight', { dtype: 'I8', shape: [97, 32], data: new Int8Array(97 * 32) });
    await using checkpoint = await openCheckpoint(
      await folder('spoilt', { 'config.json': config, 'model.safetensors': spoilt }),
    );
    const format = { code: 'ERR_MODEL_FORMAT' };
    await expect(checkpoint.readFloats('model.norm.weight', [32])).rejects.toMatchObject(format);
    await expect(checkpoint.readFloats('model.norm.weight', [31])).rejects.toMatchObject(format);
    await expect(checkpoint.readFloats('nothing', [1])).rejects.toMatchObject(format);
    await expect(checkpoint.readFloats('lm_head.weight', [97, 32])).rejects.toMatchObject({ code: 'ERR_UNSUPPORTED' });
    await expect(checkpoint.readLinear(Q_PROJ, { rows: 32, cols: 32, bias: false })).rejects.toMatchObject(format);
    await expect(checkpoint.readLinear('lm_head', { rows: 97, cols: 32, bias: false })).rejects.toMatchObject(format); // codes, but no scheme
    await checkpoint.close(); // a second close does nothing
  });
});

describe('parseShardedIndex', () => {
  it.each([
    '../a.safetensors',
    '/etc/a.safetensors',
    'a/b.safetensors',
    'a\\b.safetensors',
    '..',
    '.',
    '',
    'a.bin',
    'a\0.safetensors',
    'ä.safetensors',
    'C:a.safetensors',
    7,
    null,
  ])('refuses the shard name %j', (shard) => {
    const parse = () => parseShardedIndex({ weight_map: { x: shard } });
    expect(parse).toThrow(expect.objectContaining({ code: 'ERR_MODEL_FORMAT', field: 'weight_map.x' }));
  });

  it('refuses 1,001 shards and a map without tensors', () => {
    const many = Object.fromEntries(Array.from({ length: 1001 }, (_, i) => [`t${i}`, `${i}.safetensors`]));
    expect(() => parseShardedIndex({ weight_map: many })).toThrow(expect.objectContaining({ code: 'ERR_MODEL_LIMIT' }));
    for (const weight_map of [{}, [], null, 'x']) {
      expect(() => parseShardedIndex({ weight_map })).toThrow(expect.objectContaining({ code: 'ERR_MODEL_FORMAT' }));
    }
  });
});

describe('quantizeCheckpoint', () => {
  it('writes the layer weights as INT8, the rest as BF16, and its companions along', async () => {
    const from = await folder('float', {
      'config.json': config,
      'model.safetensors': llama,
      'tokenizer.json': '{}',
      'MODEL_CARD.md': 'card',
      'ATTRIBUTION.txt': 'thanks',
      'train.py': 'not needed',
    });
    const to = join(root, 'quantized');
    const summary = await quantizeCheckpoint(from, to);
    expect(summary).toMatchObject({ tensors: llama.size, quantized: 14 });
    expect((await readdir(to)).sort()).toEqual([
      'ATTRIBUTION.txt',
      'MODEL_CARD.md',
      'config.json',
      'model.safetensors',
      'tokenizer.json',
    ]);

    const written = readSafetensors(await readFile(join(to, 'model.safetensors')));
    for (const [name, tensor] of llama) {
      if (!/_proj\.weight$/.test(name)) {
        expect(written.get(name)).toMatchObject({ dtype: 'BF16', shape: tensor.shape });
        expect([...written.get(name)!.data]).toEqual([...tensor.data]);
        continue;
      }
      const values = written.get(name)!.data as Int8Array;
      const { dtype, shape, data } = written.get(`${name}_scale`)!;
      expect({ dtype, shape }).toEqual({ dtype: 'F32', shape: [tensor.shape[0], 1] });
      const restored = dequantizePerTokenInt8({ values, scales: data as Float32Array }, tensor.shape[1]!);
      const worst = floats(tensor).reduce(
        (max, x, i) => Math.max(max, Math.abs(x - restored[i]!) / Number(data[Math.floor(i / tensor.shape[1]!)])),
        0,
      );
      expect(worst).toBeLessThanOrEqual(0.5 + 1e-4); // half a step, and the float32 rounding of 127 steps
      expect(worst).toBeGreaterThan(0.1); // it was quantized at all
    }

    await using checkpoint = await openCheckpoint(to);
    expect((await checkpoint.readLinear(Q_PROJ, { rows: 32, cols: 32, bias: false })).type).toBe('int8');
    await expect(quantizeCheckpoint(to, join(root, 'twice'))).rejects.toMatchObject({ code: 'ERR_UNSUPPORTED' });
  });

  it.each([32, 64] as const)('writes them as INT4 in groups of %i, which loads and says the same', async (group) => {
    const random = new Random(5);
    const noise = (...shape: number[]): SafetensorsTensor => ({
      dtype: 'F32',
      shape,
      data: Float32Array.from({ length: shape.reduce((a, b) => a * b) }, () => random.next() - 0.5),
    });
    // The golden model's layers are too narrow for a group.
    const wide = new Map([...llama].filter(([name]) => !/_proj/.test(name)));
    for (const layer of [0, 1]) {
      const add = (name: string, rows: number, cols: number) =>
        wide.set(`model.layers.${layer}.${name}_proj.weight`, noise(rows, cols));
      for (const name of ['q', 'k', 'v']) add(`self_attn.${name}`, name === 'q' ? 64 : 32, 64);
      add('self_attn.o', 64, 64);
      add('mlp.gate', 128, 64);
      add('mlp.up', 128, 64);
      add('mlp.down', 64, 128);
      for (const name of ['input_layernorm', 'post_attention_layernorm'])
        wide.set(`model.layers.${layer}.${name}.weight`, noise(64));
    }
    for (const [name, rows] of [
      ['model.embed_tokens', 97],
      ['lm_head', 97],
    ] as const)
      wide.set(`${name}.weight`, noise(rows, 64));
    wide.set('model.norm.weight', noise(64));
    const shape = { ...config, hidden_size: 64, head_dim: 16, intermediate_size: 128 };
    const from = await folder(`float-${group}`, { 'config.json': shape, 'model.safetensors': wide });
    const to = join(root, `int4-${group}`);
    expect(await quantizeCheckpoint(from, to, { bits: 4, group })).toMatchObject({ quantized: 14 });

    await using checkpoint = await openCheckpoint(to);
    const name = 'model.layers.1.mlp.down_proj';
    const linear = await checkpoint.readLinear(name, { rows: 64, cols: 128, bias: false });
    if (linear.type !== 'int4') throw new Error('not INT4');
    const original = wide.get(`${name}.weight`)!.data as Float32Array;
    const restored = dequantizePerGroupInt4(linear);
    const worst = original.reduce(
      (max, x, i) => Math.max(max, Math.abs(x - restored[i]!) / linear.scales[Math.floor(i / group)]!),
      0,
    );
    expect(worst).toBeLessThan(3.1); // half a step, or what a grid that ends at 0.7 of the largest cuts off: 7 / 0.7 − 7
    const squares = (values: Float32Array) => values.reduce((sum, x) => sum + x * x, 0);
    const error = Math.sqrt(squares(original.map((x, i) => x - restored[i]!)) / squares(original));
    expect(error).toBeLessThan(0.09); // uniform noise: a step of 1/7.5 of the largest has 1/7.5/√12 of it, over its own 1/√3
    expect(error).toBeGreaterThan(0.03); // it was quantized at all

    // The portable backend computes with the floats that the codes stand for.
    const weights = { type: 'fp32', rows: 64, cols: 128, weights: restored } as const;
    const input = Float32Array.from({ length: 5 * 128 }, () => random.next() - 0.5);
    for (const backend of [selectBackend('portable'), selectBackend('auto')]) {
      const [int4, floats] = [backend.createLinear(linear), backend.createLinear(weights)];
      // Activations in INT8 (uniform in ±½, a step of 1/127 of the largest of a group): 1/127/√12 over 1/√3 is 0.0039 of them.
      const bound = backend.name === 'portable' ? 1e-5 : 0.0045;
      for (const tokens of [5, 1]) {
        const rows = input.subarray(0, tokens * 128);
        const [a, b] = [int4.forwardSync(rows, tokens), floats.forwardSync(rows, tokens)];
        expect(Math.sqrt(squares(a.map((x, i) => x - b[i]!)) / squares(b))).toBeLessThan(bound);
      }
      if (backend.name === 'portable')
        expect(backend.liveBytes()).toBeLessThan((64 * 128) / 2 + 64 * 4 * 4 + 4 * 64 * 128 + 1);
      int4.dispose();
      floats.dispose();
      expect(backend.liveBytes()).toBe(0);
    }
    await expect(quantizeCheckpoint(to, join(root, 'twice'))).rejects.toMatchObject({ code: 'ERR_UNSUPPORTED' });
  });

  it('refuses widths that are no whole groups, and sizes of groups that it does not know', async () => {
    const narrow = quantizeCheckpoint(golden('llama'), join(root, 'narrow'), { bits: 4 });
    await expect(narrow).rejects.toMatchObject({ code: 'ERR_UNSUPPORTED', message: expect.stringContaining('48') });
    for (const wrong of [{ bits: 5 }, { bits: 4, group: 48 }, { bits: 8, group: 32 }]) {
      const given = quantizeCheckpoint(golden('llama'), join(root, 'wrong'), wrong as never);
      await expect(given).rejects.toMatchObject({ code: 'ERR_ARG_RANGE' });
    }
  });

  it('finds the layer weights where names lack the enclosing module', async () => {
    const bare = new Map([...llama].map(([name, tensor]) => [name.replace(/^model\./, ''), tensor]));
    const from = await folder('bare-float', { 'config.json': config, 'model.safetensors': bare });
    expect(await quantizeCheckpoint(from, join(root, 'bare-int8'))).toMatchObject({ quantized: 14 });
  });

  it('does not touch a folder that holds files, unless told', async () => {
    const to = await folder('full', { 'notes.txt': 'mine' });
    await expect(quantizeCheckpoint(golden('llama'), to)).rejects.toMatchObject({ code: 'ERR_ARG_RANGE' });
    expect(await readdir(to)).toEqual(['notes.txt']);
    const model = join(root, 'model');
    await quantizeCheckpoint(golden('llama'), model);
    await writeFile(join(model, 'README.md'), 'older');
    await quantizeCheckpoint(golden('llama'), model, { overwrite: true });
    expect((await readdir(model)).sort()).toEqual(['config.json', 'model.safetensors']);
  });

  it('leaves nothing behind when it is aborted', async () => {
    const controller = new AbortController();
    const reason = new Error('enough');
    const before = (await readdir(root)).sort();
    const onProgress = () => controller.abort(reason);
    await expect(
      quantizeCheckpoint(golden('llama'), join(root, 'half'), { signal: controller.signal, onProgress }),
    ).rejects.toBe(reason);
    expect((await readdir(root)).sort()).toEqual(before);
  });

  it('refuses GPT-2, its own input, and unknown options', async () => {
    await expect(quantizeCheckpoint(golden('gpt2'), join(root, 'gpt2'))).rejects.toMatchObject({
      code: 'ERR_UNSUPPORTED',
    });
    await expect(quantizeCheckpoint(golden('llama'), golden('llama'), { overwrite: true })).rejects.toMatchObject({
      code: 'ERR_ARG_RANGE',
    });
    await expect(quantizeCheckpoint(golden('llama'), join(root, 'x'), { width: 4 } as never)).rejects.toMatchObject({
      code: 'ERR_ARG_RANGE',
    });
    await expect(quantizeCheckpoint(golden('llama'), '')).rejects.toMatchObject({ code: 'ERR_ARG_TYPE' });
  });
});
