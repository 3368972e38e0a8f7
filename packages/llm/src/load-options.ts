import { BACKEND_CHOICES, type BackendChoice } from '@int-flash/attention';
import {
  checkBoolean,
  checkChoice,
  checkInteger,
  checkOptions,
  checkSignal,
  describe,
  IntFlashError,
  type KeyScales,
  readArguments,
} from '@int-flash/ops';
import { judgeKeyScales, KV_CACHE_DTYPES, type KvCacheDtype } from './kv-cache-layer.js';
import { ATTENTION_CHOICES, type AttentionChoice } from './layers/attention.js';
import { LINEAR_CHOICES, type LinearChoice } from './layers/linear.js';

export interface LoadOptions {
  /** `auto`: the fastest that runs here. A named one runs or `loadModel` throws. */
  readonly backend?: BackendChoice | undefined;
  /** Threads of the `cpu` backend; all cores by default. */
  readonly threads?: number | undefined;
  /** `int8` by default. */
  readonly attention?: AttentionChoice | undefined;
  /** By default `int8` with INT8 attention and `fp32` with fp32 attention. */
  readonly kvCacheDtype?: KvCacheDtype | undefined;
  /**
   * Of caches in INT8 and INT4: `token` by default; `channel` where a few channels of a model's keys are far larger than the others. It changes
   * answers a little. Floats have no scales: `channel` is refused where `kvCacheDtype` is one of those, and makes no difference to a call that asks for one.
   */
  readonly kvKeyScales?: KeyScales | undefined;
  /** Arithmetic of the linear layers: `auto` (as stored; quantized GGUF but Q4_0 in `int8`) by default. The output layer is always fp32. */
  readonly linear?: LinearChoice | undefined;
  /**
   * Memory for all sequences' keys and values; by default enough for 64 of full length, but no more than a quarter of the machine's, or three
   * quarters of what the weights leave of a GPU's. When it runs out, the sequence that came last waits, and what it had is computed again.
   * More than the machine can reserve is refused with `ERR_OOM` when the first sequence wants pages.
   */
  readonly kvCacheBytes?: number | undefined;
  /** Keep what was computed for prompts to come that begin alike, as those of a conversation do; true by default. Changes no answer. */
  readonly prefixCache?: boolean | undefined;
  /** Told the part of the weights read so far, in [0, 1]. */
  readonly onLoadProgress?: ((fraction: number) => void) | undefined;
  /** Aborts loading; rejects with its reason. */
  readonly loadSignal?: AbortSignal | undefined;
}

const LOAD_KEYS = [
  'backend',
  'threads',
  'attention',
  'kvCacheDtype',
  'kvKeyScales',
  'linear',
  'kvCacheBytes',
  'prefixCache',
  'onLoadProgress',
  'loadSignal',
] as const;

/**
 * Everything decided but whether the backend runs.
 *
 * @throws {IntFlashError} `ERR_ARG_TYPE`, `ERR_ARG_RANGE`.
 */
export function judgeLoadOptions(options: unknown) {
  return readArguments(() => readLoadOptions(options));
}

function readLoadOptions(options: unknown) {
  const given = checkOptions(options, LOAD_KEYS, 'options');
  const signal = checkSignal(given.loadSignal, 'loadSignal');
  const onLoadProgress = checkFunction(given.onLoadProgress, 'onLoadProgress');
  const linear = checkChoice(given.linear, 'linear', LINEAR_CHOICES, 'auto');
  const attention = checkChoice(given.attention, 'attention', ATTENTION_CHOICES, 'int8');
  const kvCacheDtype = checkChoice(given.kvCacheDtype, 'kvCacheDtype', KV_CACHE_DTYPES, attention);
  const bytes =
    given.kvCacheBytes === undefined
      ? undefined
      : checkInteger(given.kvCacheBytes, 'kvCacheBytes', 0, 1, Number.MAX_SAFE_INTEGER);
  const cacheSettings = {
    bytes,
    keepsPrefixes: checkBoolean(given.prefixCache, 'prefixCache', true),
    keyScales: judgeKeyScales(given.kvKeyScales, kvCacheDtype),
  };
  const choice = checkChoice(given.backend, 'backend', BACKEND_CHOICES, 'auto');
  const { threads } = given; // their range is the backend's
  if (threads !== undefined && typeof threads !== 'number')
    throw new IntFlashError('ERR_ARG_TYPE', `Expected threads to be a number, got ${describe(threads)}`);
  const backend = { choice, options: threads === undefined ? {} : { threads } };
  return { bytes, signal, onLoadProgress, linear, attention, kvCacheDtype, cacheSettings, backend };
}

export function checkFunction(value: unknown, name: string): ((fraction: number) => void) | undefined {
  if (value === undefined) return undefined;
  if (typeof value !== 'function')
    throw new IntFlashError('ERR_ARG_TYPE', `Expected ${name} to be a function, got ${describe(value)}`);
  return value as (fraction: number) => void;
}
