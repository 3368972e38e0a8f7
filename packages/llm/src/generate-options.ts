import { randomInt } from 'node:crypto';
import { types } from 'node:util';
import {
  checkBoolean,
  checkChoice,
  checkInteger,
  checkNumber,
  checkOptions,
  checkSignal,
  describe,
  IntFlashError,
  readArguments,
  wrongType,
} from '@int-flash/ops';
import type { GenerationConfig } from './generation-config.js';
import { KV_CACHE_DTYPES, type KvCacheDtype } from './kv-cache-layer.js';
import { ATTENTION_CHOICES, type AttentionChoice } from './layers/attention.js';
import { FEW_QUERIES } from './replay.js';
import type { SamplingRules } from './sampler.js';

/** How one sequence is computed; what is absent was decided when the model was loaded. */
export interface SequenceOptions {
  readonly attention?: AttentionChoice | undefined;
  /** `fp32` with INT8 attention quantizes the whole cache for every token; codes with fp32 attention are widened as often. */
  readonly kvCacheDtype?: KvCacheDtype | undefined;
  /** Rejects with `signal.reason` when aborted. */
  readonly signal?: AbortSignal | undefined;
  /** Prompt tokens computed together, 1 to 4,096; 128 by default, and up to 8,192 on a GPU, by who else is there. */
  readonly prefillChunk?: number | undefined;
}

/** How an answer is drawn. What is absent the model's generation_config.json decides; without one the draw is greedy. */
export interface GenerateOptions extends SequenceOptions {
  /** Ends with `length` after so many tokens; 256 if nothing says otherwise. The context's end is the other limit. */
  readonly maxTokens?: number | undefined;
  /** 0 = greedy, up to 100. */
  readonly temperature?: number | undefined;
  /** 0 = off. */
  readonly topK?: number | undefined;
  /** In (0, 1]; 1 = off. */
  readonly topP?: number | undefined;
  /** In [0, 1]; 0 = off. */
  readonly minP?: number | undefined;
  /** An integer in [0, 2^53): same seed, same text. Absent: a random one, which the stats tell. */
  readonly seed?: number | undefined;
  /** In [0.01, 100]; 1 = off. */
  readonly repeatPenalty?: number | undefined;
  /** In [-100, 100]; 0 = off. */
  readonly presencePenalty?: number | undefined;
  /** In [-100, 100]; 0 = off. */
  readonly frequencyPenalty?: number | undefined;
  /** By token id, added to its logit, in [-100, 100]; -Infinity bans it. */
  readonly logitBias?: Readonly<Record<number, number>> | ReadonlyMap<number, number> | undefined;
  /** Ends with `stop` in front of the first of these, at most 16. */
  readonly stop?: string | readonly string[] | undefined;
  /** Tell each token's log-probability, and those of the n most probable (0 to 100). */
  readonly logprobs?: number | undefined;
  /** Go on behind an end token. */
  readonly ignoreEos?: boolean | undefined;
  /**
   * Tokens to guess ahead, 0 (the default) to 7, from what the text repeats: faster where it does, and never another answer. Where several
   * tokens at once get other bits than one by one (INT8 attention over a float cache; on a GPU any cache that lies in host memory) nothing is guessed.
   */
  readonly speculate?: number | undefined;
}

const SEQUENCE_KEYS = ['attention', 'kvCacheDtype', 'signal', 'prefillChunk'] as const;
const GENERATE_KEYS = [
  ...SEQUENCE_KEYS,
  'maxTokens',
  'temperature',
  'topK',
  'topP',
  'minP',
  'seed',
  'repeatPenalty',
  'presencePenalty',
  'frequencyPenalty',
  'logitBias',
  'stop',
  'logprobs',
  'ignoreEos',
  'speculate',
] as const;

const DEFAULT_MAX_TOKENS = 256;
const MAX_COUNT = 2 ** 31 - 1;
const MAX_STOPS = 16;
const MAX_STOP_LENGTH = 1024;

/** Sequence options with everything decided. */
export interface JudgedSequence {
  readonly attention: AttentionChoice;
  readonly kvCacheDtype: KvCacheDtype;
  readonly signal: AbortSignal | undefined;
  readonly chunk: number | undefined;
}

export interface JudgedGeneration extends JudgedSequence {
  readonly rules: SamplingRules;
  readonly maxTokens: number;
  readonly seed: number;
  readonly stops: readonly string[];
  /** Undefined: none wanted. */
  readonly logprobs: number | undefined;
  readonly ignoreEos: boolean;
  readonly speculate: number;
}

/** What holds where the call does not say. */
export interface SequenceDefaults {
  readonly attention: AttentionChoice;
  /** Undefined: INT8 for INT8 attention, fp32 for fp32. */
  readonly kvCacheDtype: KvCacheDtype | undefined;
}

/**
 * @param more Names of further options, which the caller judges: they come back as they were given.
 * @throws {IntFlashError} `ERR_ARG_TYPE`, `ERR_ARG_RANGE`.
 */
export function judgeSequenceOptions(
  options: unknown,
  defaults: SequenceDefaults,
  more: readonly string[] = [],
): { readonly judged: JudgedSequence; readonly more: Readonly<Record<string, unknown>> } {
  return readArguments(() => {
    const given = checkOptions(options, [...SEQUENCE_KEYS, ...more], 'options');
    return { judged: judgeSequence(given, defaults), more: given };
  });
}

/** @throws {IntFlashError} `ERR_ARG_TYPE`, `ERR_ARG_RANGE`. */
export function judgeGenerateOptions(
  options: unknown,
  defaults: SequenceDefaults,
  model: GenerationConfig,
  vocabSize: number,
): JudgedGeneration {
  return readArguments(() => judgeGeneration(options, defaults, model, vocabSize));
}

function judgeGeneration(
  options: unknown,
  defaults: SequenceDefaults,
  model: GenerationConfig,
  vocabSize: number,
): JudgedGeneration {
  const given = checkOptions(options, GENERATE_KEYS, 'options');
  const number = (name: string, fallback: number, min: number, max: number) =>
    checkNumber(given[name], name, fallback, min, max);
  const modelTemperature = model.doSample === true ? (model.temperature ?? 1) : 0;
  return {
    ...judgeSequence(given, defaults),
    rules: {
      logitBias: judgeLogitBias(given.logitBias, vocabSize),
      repeatPenalty: number('repeatPenalty', model.repeatPenalty ?? 1, 0.01, 100),
      presencePenalty: number('presencePenalty', 0, -100, 100),
      frequencyPenalty: number('frequencyPenalty', 0, -100, 100),
      temperature: number('temperature', modelTemperature, 0, 100),
      topK: checkInteger(given.topK, 'topK', model.topK ?? 0, 0, MAX_COUNT),
      topP: judgeTopP(given.topP, model.topP || 1),
      minP: number('minP', model.minP ?? 0, 0, 1),
    },
    maxTokens: checkInteger(
      given.maxTokens,
      'maxTokens',
      Math.max(model.maxTokens ?? DEFAULT_MAX_TOKENS, 1),
      1,
      MAX_COUNT,
    ),
    seed:
      given.seed === undefined
        ? randomInt(2 ** 48 - 1)
        : checkInteger(given.seed, 'seed', 0, 0, Number.MAX_SAFE_INTEGER),
    stops: judgeStops(given.stop),
    logprobs: given.logprobs === undefined ? undefined : checkInteger(given.logprobs, 'logprobs', 0, 0, 100),
    ignoreEos: checkBoolean(given.ignoreEos, 'ignoreEos', false),
    speculate: checkInteger(given.speculate, 'speculate', 0, 0, FEW_QUERIES - 1),
  };
}

/** Nothing at all holds no probability: 0 is no choice. */
function judgeTopP(given: unknown, fallback: number): number {
  const topP = checkNumber(given, 'topP', fallback, 0, 1);
  if (topP === 0) throw new IntFlashError('ERR_ARG_RANGE', 'Expected topP to be above 0, at most 1, got 0');
  return topP;
}

function judgeSequence(given: Record<string, unknown>, defaults: SequenceDefaults): JudgedSequence {
  const attention = checkChoice(given.attention, 'attention', ATTENTION_CHOICES, defaults.attention);
  // A call that changes the arithmetic without naming a cache gets the cache that goes with it.
  const fallback = (attention === defaults.attention ? defaults.kvCacheDtype : undefined) ?? attention;
  return {
    attention,
    kvCacheDtype: checkChoice(given.kvCacheDtype, 'kvCacheDtype', KV_CACHE_DTYPES, fallback),
    signal: checkSignal(given.signal),
    chunk: given.prefillChunk === undefined ? undefined : checkInteger(given.prefillChunk, 'prefillChunk', 64, 1, 4096),
  };
}

function judgeLogitBias(value: unknown, vocabSize: number): Map<number, number> {
  const biases = new Map<number, number>();
  if (value === undefined) return biases;
  // By what it is and not by its class, of which each realm has its own; anything else has no biases to read, and would pass without a word.
  const isMap = types.isMap(value);
  if (!isMap && Object.prototype.toString.call(value) !== '[object Object]')
    throw wrongType('logitBias to be an object or a Map of biases by token id', value);
  const entries: Iterable<[unknown, unknown]> = isMap
    ? Map.prototype.entries.call(value)
    : Object.entries(value as object);
  for (const [key, bias] of entries) {
    const id = typeof key === 'string' && /^\d+$/.test(key) ? Number(key) : (key ?? null);
    checkInteger(id, 'a token id of logitBias', -1, 0, vocabSize - 1);
    if (biases.has(id as number))
      throw new IntFlashError('ERR_ARG_RANGE', `Expected one bias in logitBias for token ${id}, got several`);
    if (bias !== -Infinity) checkNumber(bias ?? null, `logitBias[${id}]`, 0, -100, 100);
    biases.set(id as number, bias as number);
  }
  return biases;
}

function judgeStops(value: unknown): string[] {
  const stops: unknown[] = value === undefined ? [] : Array.isArray(value) ? value : [value];
  if (stops.length > MAX_STOPS)
    throw new IntFlashError('ERR_ARG_RANGE', `Expected at most ${MAX_STOPS} stop strings, got ${stops.length}`);
  // Not by `map`, which passes over holes.
  return Array.from({ length: stops.length }, (_, i) => {
    const stop = stops[i];
    if (typeof stop !== 'string')
      throw new IntFlashError('ERR_ARG_TYPE', `Expected stop to hold strings, got ${describe(stop)}`);
    if (stop.length < 1 || stop.length > MAX_STOP_LENGTH) {
      throw new IntFlashError(
        'ERR_ARG_RANGE',
        `Expected stop strings of 1 to ${MAX_STOP_LENGTH} characters, got one of ${stop.length}`,
      );
    }
    return stop;
  });
}
