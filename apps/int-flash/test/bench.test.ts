import { readFileSync } from 'node:fs';
import { loadRandomModel } from '@int-flash/llm';
import { describe, expect, it } from 'vitest';
import { spread } from '../src/bench/bench-model.js';
import { BENCH_SHAPES, type BenchShape, loadingBytes } from '../src/bench/bench-shapes.js';
import { timeGeneration } from '../src/bench/time-generation.js';
import type { TimingRequest } from '../src/runtime.js';
import { modelFolder, runFake } from './fake-app.js';
import { interruptAtWork, runCommand } from './run-command.js';

describe('bench', () => {
  it('times every cache, context and batch, once more than it counts', async () => {
    const timings: TimingRequest[] = [];
    const args = [
      'bench',
      modelFolder(),
      '-p',
      '32,64',
      '-b',
      '1,4',
      '-n',
      '8',
      '-r',
      '2',
      '--kv',
      'int8,int4',
      '-o',
      'jsonl',
    ];
    const { code, stdout, alive, loads } = await runFake(args, { onTiming: (request) => timings.push(request) });
    expect({ code, alive }).toEqual({ code: 0, alive: 0 });
    expect(loads.map(({ kvCacheDtype }) => kvCacheDtype)).toEqual(['int8', 'int4']);
    expect(timings).toHaveLength(2 * 2 * 2 * 3);
    expect(timings[0]).toEqual({ batch: 1, promptTokens: 32, newTokens: 9 });
    const rows = stdout
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line));
    expect(rows.map(({ kv, context, batch }) => `${kv} ${context} ${batch}`)).toEqual([
      ...['int8 32 1', 'int8 32 4', 'int8 64 1', 'int8 64 4'],
      ...['int4 32 1', 'int4 32 4', 'int4 64 1', 'int4 64 4'],
    ]);
    expect(rows[1]).toMatchObject({ pp_ts: 320, tg_ts: 200, tg_ts_sd: 0, ttft_ms: 100, newTokens: 8, repeats: 2 });
  });

  it('tells each line of jsonl as soon as it is known, whatever becomes of the next', async () => {
    const onTiming = ({ batch }: TimingRequest) => {
      if (batch === 4) throw new Error('out of memory');
    };
    const args = ['bench', modelFolder(), '-r', '1', '-b', '1,4', '-o', 'jsonl'];
    const { code, stdout } = await runFake(args, { onTiming });
    expect(code).toBe(1);
    expect(JSON.parse(stdout)).toMatchObject({ batch: 1, pp_ts: 5120 });
  });

  it('prints a table, CSV or JSON', async () => {
    const run = async (...more: string[]) => (await runFake(['bench', modelFolder(), '-r', '1', ...more])).stdout;
    const [head, , row] = (await run()).split('\n');
    expect(head).toMatch(/\| kv \| batch \| context \| pp512 t\/s \| tg128 t\/s \| ttft_ms \|$/);
    expect(row).toMatch(/\| fake \|.*\| int8 \| 1 \| 512 \| 5120\.00 ± 0\.00 \| 50\.00 ± 0\.00 \| 100\.00 ± 0\.00 \|$/);
    const [keys, values] = (await run('-o', 'csv')).split('\n');
    expect(keys!.split(',')).toHaveLength(values!.split(',').length);
    expect(JSON.parse(await run('--json'))).toEqual([expect.objectContaining({ cpu: expect.any(String), kv: 'int8' })]);
  });

  it.each([
    [['--batch', '0'], /integer from 1 to 1024/],
    [['--json', '-o', 'csv'], /Expected --json or --output csv, got both/],
    [['--kv', 'int2'], /some of fp32, fp16, int8, int4/],
    [['--context', '2000'], /fit into the 1024 of fake, got 2129/],
    [['--random', 'gpt-9'], /Allowed choices are llama-3.2-1b, llama-3.1-8b, qwen3-8b, qwen3-0.6b/],
    [['--random', 'qwen3-0.6b'], /a model or --random, got both/],
  ])('refuses %j', async (more, message) => {
    const { code, stderr, alive } = await runFake(['bench', modelFolder(), ...more]);
    expect({ code, alive }).toEqual({ code: 2, alive: 0 });
    expect(stderr).toMatch(message);
  });

  it('spread is the mean and the sample deviation', () => {
    expect(spread([1, 2, 3, 4])).toEqual({ mean: 2.5, sd: Math.sqrt(5 / 3) });
    expect(spread([7])).toEqual({ mean: 7, sd: 0 });
  });

  it('knows the size of the shapes', () => {
    // 1.24 billion parameters; the embedding twice as float32 is 2.1 GB of it.
    expect(loadingBytes('llama-3.2-1b') / 1e9).toBeGreaterThan(3);
    expect(loadingBytes('llama-3.2-1b') / 1e9).toBeLessThan(4);
    expect(loadingBytes('qwen3-0.6b')).toBeLessThan(loadingBytes('llama-3.2-1b'));
    // 8.03 billion parameters, of which 1.05 are looked up or for the logits.
    expect(loadingBytes('llama-3.1-8b') / 1e9).toBeGreaterThan(10);
    expect(loadingBytes('llama-3.1-8b') / 1e9).toBeLessThan(14);
  });
});

describe('random models', () => {
  const small = {
    ...BENCH_SHAPES['qwen3-0.6b'],
    vocab_size: 300,
    hidden_size: 64,
    num_hidden_layers: 2,
    num_attention_heads: 4,
    num_key_value_heads: 2,
    head_dim: 16,
    intermediate_size: 96,
  };

  it('run, with finite logits, and draw as many tokens as were asked for', async () => {
    await using model = await loadRandomModel(small, { backend: 'portable' });
    expect(model.status().linear).toBe('auto');
    const logits = await model.logits([1, 2, 3]);
    expect(logits.every(Number.isFinite)).toBe(true);
    expect(Math.max(...logits)).toBeGreaterThan(0.1);
    const timing = await timeGeneration(
      model,
      { batch: 3, promptTokens: 20, newTokens: 5 },
      new AbortController().signal,
    );
    expect(timing.promptMs).toBeGreaterThanOrEqual(timing.firstTokenMs);
    expect(timing.tokensPerSecond).toBeGreaterThan(0);
    expect(model.status().sessions).toBe(0);
  });

  it('tell how far they are, and stop there when told to', async () => {
    const told: number[] = [];
    const onLoadProgress = (part: number) => told.push(part);
    const larger = { ...small, vocab_size: 30_000, hidden_size: 128 };
    await using _ = await loadRandomModel(larger, { backend: 'portable', onLoadProgress });
    expect(told.length).toBeGreaterThan(5);
    expect(told).toEqual([...told].sort((a, b) => a - b));
    expect([told[0], told.at(-1)]).toEqual([0, 1]);

    const controller = new AbortController();
    const loading = loadRandomModel(larger, {
      backend: 'portable',
      loadSignal: controller.signal,
      onLoadProgress: (part) => part > 0.3 && controller.abort('enough'),
    });
    await expect(loading).rejects.toBe('enough');
  });

  it('stop when told to', async () => {
    await using model = await loadRandomModel(small, { backend: 'portable' });
    const timing = timeGeneration(model, { batch: 2, promptTokens: 4000, newTokens: 100 }, AbortSignal.timeout(30));
    await expect(timing).rejects.toMatchObject({ name: 'TimeoutError' });
  });
});

describe('the shapes', () => {
  it('are those of the benchmarks on a GPU', () => {
    const file = new URL('../../../packages/kernels-cuda/bench/decoder-shapes.json', import.meta.url);
    const onGpu: Record<string, object> = JSON.parse(readFileSync(file, 'utf8'));
    for (const [name, shape] of Object.entries(onGpu).filter(([name]) => name !== 'demo')) {
      const ours = BENCH_SHAPES[name.toLowerCase() as BenchShape];
      expect(shape, name).toEqual({
        layers: ours.num_hidden_layers,
        hiddenSize: ours.hidden_size,
        heads: ours.num_attention_heads,
        kvHeads: ours.num_key_value_heads,
        headDim: ours.head_dim,
        intermediateSize: ours.intermediate_size,
        vocabSize: ours.vocab_size,
        tied: ours.tie_word_embeddings,
        headNorms: ours.model_type === 'qwen3',
      });
    }
  });
});

describe('the command', () => {
  it('measures the shipped model', async () => {
    const { code, stdout, stderr } = await runCommand(['bench', '-p', '64', '-n', '4', '-r', '1', '--json']);
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
    expect(JSON.parse(stdout)).toEqual([
      expect.objectContaining({ model: 'int-flash-demo', kv: 'int8', context: 64, newTokens: 4, parameters: 14162304 }),
    ]);
  });

  it('ends with exit code 130 on Ctrl-C', async () => {
    const { code, stdout } = await runCommand(['bench', '-p', '900', '-n', '100', '-r', '1000'], {
      onSpawn: (child) => interruptAtWork(child, 3000),
    });
    expect({ code, stdout }).toEqual({ code: 130, stdout: '' });
  }, 120_000);
});
