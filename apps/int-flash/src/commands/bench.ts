import os from 'node:os';
import { type Command, InvalidArgumentError, Option } from 'commander';
import type { App } from '../app.js';
import { type BenchRow, benchModel } from '../bench/bench-model.js';
import { BENCH_FORMATS, type BenchFormat, benchOutput } from '../bench/bench-output.js';
import { BENCH_SHAPE_NAMES, BENCH_SHAPES, type BenchShape, loadingBytes } from '../bench/bench-shapes.js';
import { UsageError } from '../failures.js';
import { findModel } from '../model-folder.js';
import { computeSettings, integer, type ModelOptions, path, withComputeOptions } from '../options.js';
import { type OnProgress, withProgressBar } from '../progress-bar.js';
import { KV_CACHE_CHOICES, type KvCacheDtype, type LoadSettings, type Model } from '../runtime.js';
import { stoppable } from '../stoppable.js';
import { formatBytes } from '../units.js';

type BenchOptions = ModelOptions & {
  readonly random?: BenchShape;
  readonly kv?: readonly KvCacheDtype[];
  readonly batch: readonly number[];
  readonly context: readonly number[];
  readonly newTokens: number;
  readonly repeats: number;
  readonly output?: BenchFormat;
};

export function addBench(program: Command, app: App): void {
  const command = program
    .command('bench')
    .description(
      "a model's speed: prompt tokens a second, new tokens a second after it, time to the first, each mean ± deviation",
    )
    .argument(
      '[model]',
      'folder in Hugging Face format, or a GGUF file (default: INT_FLASH_MODEL, else the demo model)',
      path,
    )
    .addOption(new Option('--random <shape>', 'random weights of a known shape instead').choices(BENCH_SHAPE_NAMES))
    .option('-p, --context <list>', 'prompt tokens, several with commas', integers(1, 1_000_000), [512])
    .option('-n, --new-tokens <n>', 'drawn after each prompt', integer(1, 100_000), 128)
    .option('-b, --batch <list>', 'sequences at once, several with commas', integers(1, 1024), [1])
    .option(
      '--kv <list>',
      `ways to keep keys and values, of ${KV_CACHE_CHOICES.join(', ')}; floats with fp32 attention (default: as --kv-cache-dtype)`,
      kvTypes,
    )
    .option('-r, --repeats <n>', 'measured runs of each, after one to warm up', integer(1, 1000), 3)
    .addOption(new Option('-o, --output <format>', 'of what is printed (default: md)').choices(BENCH_FORMATS));
  withComputeOptions(command).action((model: string | undefined, options: BenchOptions) =>
    stoppable(app.terminal, (signal) => bench(app, model, options, signal)),
  );
}

async function bench(app: App, asked: string | undefined, options: BenchOptions, signal: AbortSignal): Promise<void> {
  const { output } = options;
  if (options.json && output !== undefined && output !== 'json')
    throw new UsageError(`Expected --json or --output ${output}, got both`);
  const format = output ?? (options.json ? 'json' : 'md');
  const quiet = options.quiet === true || options.json === true;
  const ways = options.kv ?? [options.kvCacheDtype];
  const floats = ways.filter(isFloat);
  if (options.kvKeyScales === 'channel' && floats.length > 0)
    throw new UsageError(`Expected caches in int8 and int4 with --kv-key-scales channel, got ${floats.join(', ')}`);
  const rows: BenchRow[] = [];
  const origin = { cpu: os.cpus()[0]?.model.trim() ?? 'unknown', commit: app.env.INT_FLASH_COMMIT };
  const onRow = async (row: BenchRow) => {
    rows.push(row);
    if (format === 'jsonl') await app.terminal.write(benchOutput([row], format, origin)); // so that Ctrl-C loses none
  };
  for (const [i, kvCacheDtype] of ways.entries()) {
    const model = await withProgressBar(app.terminal, 'loading', quiet, (onProgress) =>
      load(app, asked, options, kvCacheDtype, onProgress, signal),
    );
    try {
      checkRoom(model, options);
      const { batch: batches, context: contexts, newTokens, repeats } = options;
      const plan = { batches, contexts, newTokens, repeats };
      await withProgressBar(app.terminal, 'timing', quiet, (onProgress) =>
        benchModel(model, plan, signal, (part) => onProgress((i + part) / ways.length), onRow),
      );
    } finally {
      await model.dispose();
    }
  }
  if (format !== 'jsonl') await app.terminal.write(benchOutput(rows, format, origin));
}

function load(
  { runtime, env }: App,
  asked: string | undefined,
  options: BenchOptions,
  kvCacheDtype: KvCacheDtype | undefined,
  onProgress: OnProgress,
  signal: AbortSignal,
): Promise<Model> {
  const { random } = options;
  const settings: LoadSettings = {
    ...computeSettings(options),
    ...(kvCacheDtype !== undefined && { kvCacheDtype }),
    ...(isFloat(kvCacheDtype) && { attention: 'fp32' }), // INT8 attention would quantize all of it for every token
    prefixCache: false, // runs have the same prompts
    onProgress,
    signal,
  };
  if (random === undefined) return runtime.loadModel(findModel(asked, env), settings);
  if (asked !== undefined) throw new UsageError('Expected a model or --random, got both');
  const needed = loadingBytes(random);
  if (needed > os.freemem()) {
    throw new UsageError(
      `Expected ${formatBytes(needed)} of free memory for ${random}, got ${formatBytes(os.freemem())}`,
      `Smaller: ${BENCH_SHAPE_NAMES.filter((name) => loadingBytes(name) < needed).join(', ') || 'the demo model'}.`,
    );
  }
  return runtime.loadRandomModel(random, BENCH_SHAPES[random], settings);
}

function isFloat(kvCacheDtype: KvCacheDtype | undefined): boolean {
  return kvCacheDtype === 'fp32' || kvCacheDtype === 'fp16';
}

function checkRoom({ facts }: Model, { context, newTokens }: BenchOptions): void {
  const longest = Math.max(...context) + newTokens + 1;
  if (longest > facts.contextLength) {
    throw new UsageError(
      `Expected prompt, new tokens and the one that ends the prompt's time to fit into the ${facts.contextLength} of ${facts.name}, got ${longest}`,
      'Lower --context or --new-tokens.',
    );
  }
}

function integers(min: number, max: number): (text: string) => number[] {
  const one = integer(min, max);
  return (text) => text.split(',').map(one);
}

function kvTypes(text: string): KvCacheDtype[] {
  return text.split(',').map((type) => {
    const found = KV_CACHE_CHOICES.find((choice) => choice === type);
    if (!found) throw new InvalidArgumentError(`Expected some of ${KV_CACHE_CHOICES.join(', ')}, separated by commas.`);
    return found;
  });
}
