import { type Command, InvalidArgumentError, Option } from 'commander';
import {
  ATTENTION_CHOICES,
  type AttentionChoice,
  BACKEND_CHOICES,
  type BackendChoice,
  KEY_SCALES_CHOICES,
  type KeyScales,
  KV_CACHE_CHOICES,
  type KvCacheDtype,
  LINEAR_CHOICES,
  type LinearChoice,
  type LoadSettings,
  type SamplingSettings,
} from './runtime.js';

export interface OutputOptions {
  readonly json?: boolean;
  readonly quiet?: boolean;
}

export interface ModelOptions extends OutputOptions {
  readonly model?: string;
  readonly backend: BackendChoice;
  readonly attention: AttentionChoice;
  readonly threads?: number;
  readonly kvCacheDtype?: KvCacheDtype;
  readonly kvKeyScales?: KeyScales;
  readonly linear: LinearChoice;
}

export interface CacheOptions {
  /** MiB */
  readonly kvCacheMemory?: number;
  readonly prefixCache?: boolean;
}

export interface SamplingOptions extends SamplingSettings {
  readonly system?: string;
}

export function withOutputOptions(command: Command): Command {
  return command
    .option('--json', 'print JSON on stdout instead of text')
    .option('--quiet', 'no progress bar, no closing line on stderr');
}

/** Where and in which arithmetic a model runs. */
export function withComputeOptions(command: Command): Command {
  return withOutputOptions(
    command
      .addOption(choice('--backend <name>', 'where to compute', BACKEND_CHOICES, 'auto'))
      .option('--threads <n>', 'of the cpu backend (default: all cores)', integer(1, 256))
      .addOption(choice('--attention <precision>', 'arithmetic of attention', ATTENTION_CHOICES, 'int8'))
      .addOption(
        choice('--kv-cache-dtype <type>', 'how keys and values are kept (default: as --attention)', KV_CACHE_CHOICES),
      )
      .addOption(
        choice(
          '--kv-key-scales <what>',
          'what keys in int8 and int4 have a scale for; channel: for models where a few channels of them are far larger than the others (default: token)',
          KEY_SCALES_CHOICES,
        ),
      )
      .addOption(
        choice(
          '--linear <precision>',
          'arithmetic of the matrices; auto is as they are stored',
          LINEAR_CHOICES,
          'auto',
        ),
      ),
  );
}

export function withModelOptions(command: Command): Command {
  return withComputeOptions(
    command.option(
      '--model <path>',
      'folder in Hugging Face format, or a GGUF file (default: INT_FLASH_MODEL, else the demo model)',
      path,
    ),
  );
}

type ComputeSettings = Pick<
  LoadSettings,
  'backend' | 'threads' | 'attention' | 'kvCacheDtype' | 'kvKeyScales' | 'linear'
>;

/** Where and in which arithmetic, among parsed options. */
export function computeSettings(options: ModelOptions): ComputeSettings {
  const { backend, attention, linear, threads, kvCacheDtype, kvKeyScales } = options;
  return {
    backend,
    attention,
    linear,
    ...(threads !== undefined && { threads }),
    ...(kvCacheDtype !== undefined && { kvCacheDtype }),
    ...(kvKeyScales !== undefined && { kvKeyScales }),
  };
}

/** Memory of the KV cache, where many sequences share it. */
export function withCacheOptions(command: Command): Command {
  return command
    .option(
      '--kv-cache-memory <MiB>',
      "of all sequences together (default: 64 of full length, at most a quarter of the memory, or 3/4 of what is left of a GPU's)",
      integer(1, 2 ** 24),
    )
    .option('--no-prefix-cache', 'compute every prompt from its beginning, also where an earlier one began alike');
}

/** The cache's settings among parsed options. */
export function cacheSettings({
  kvCacheMemory,
  prefixCache,
}: CacheOptions): Pick<LoadSettings, 'kvCacheBytes' | 'prefixCache'> {
  return {
    ...(kvCacheMemory !== undefined && { kvCacheBytes: kvCacheMemory * 2 ** 20 }),
    ...(prefixCache === false && { prefixCache }),
  };
}

export function speculateOption(): Option {
  return new Option(
    '--speculate <n>',
    'guess so many tokens ahead, 0 to 7, from what the text repeats: faster where it does, never another answer',
  ).argParser(integer(0, 7));
}

/** Sampling; what is not given, the model's generation_config.json decides. */
export function withSamplingOptions(command: Command): Command {
  return command
    .option('--system <text>', 'a system message to start the conversation with')
    .option('--seed <n>', 'same seed, same text', integer(0, Number.MAX_SAFE_INTEGER))
    .option('--max-tokens <n>', 'stop after so many tokens; 256 if not given', integer(1, 1_000_000))
    .option('--temperature <x>', '0 takes the likeliest token every time', number(0, 100))
    .option('--top-k <n>', 'sample among the k likeliest; 0 is all', integer(0, 1_000_000))
    .option('--top-p <x>', 'sample among the likeliest that hold this much probability', positive(1))
    .option('--min-p <x>', 'leave out tokens below this fraction of the likeliest', number(0, 1))
    .option('--repeat-penalty <x>', 'above 1 avoids tokens already written', number(0.01, 100))
    .option('--stop <text>', 'end before this text; may be given several times', collect)
    .addOption(speculateOption());
}

/** The sampling settings among parsed options. */
export function samplingSettings(options: SamplingOptions): SamplingSettings {
  const { seed, temperature, topK, topP, minP, repeatPenalty, maxTokens, stop, speculate } = options;
  const given = { seed, temperature, topK, topP, minP, repeatPenalty, maxTokens, stop, speculate };
  return Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined));
}

export function integer(min: number, max: number): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (!/^\d+$/.test(text) || value < min || value > max) {
      throw new InvalidArgumentError(`Expected an integer from ${min} to ${max}.`);
    }
    return value;
  };
}

export function number(min: number, max: number): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (text.trim() === '' || !(value >= min && value <= max)) {
      throw new InvalidArgumentError(`Expected a number from ${min} to ${max}.`);
    }
    return value;
  };
}

/** A number above 0. */
function positive(max: number): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (!(value > 0 && value <= max)) throw new InvalidArgumentError(`Expected a number above 0, at most ${max}.`);
    return value;
  };
}

/** A file or folder; an empty text would be the working folder. */
export function path(text: string): string {
  if (text === '') throw new InvalidArgumentError('Expected a path.');
  return text;
}

function choice(flags: string, description: string, choices: readonly string[], fallback?: string): Option {
  const option = new Option(flags, description).choices(choices);
  return fallback === undefined ? option : option.default(fallback);
}

function collect(text: string, earlier: readonly string[] = []): string[] {
  if (text === '') throw new InvalidArgumentError('Expected some text.');
  return [...earlier, text];
}
