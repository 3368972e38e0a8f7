import { type BackendChoice, selectBackend } from '@int-flash/attention';
import {
  type Backend,
  type BackendStatus,
  checkBoolean,
  checkChoice,
  checkInteger,
  checkOptions,
  checkSignal,
  describe,
  IntFlashError,
  type KeyScales,
} from '@int-flash/ops';
import { type ChatMessage, renderChatTemplate } from './chat-template.js';
import type { CheckpointOptions } from './checkpoint.js';
import { Generation, type GenerationModel } from './generate.js';
import {
  type GenerateOptions,
  type JudgedSequence,
  judgeGenerateOptions,
  judgeSequenceOptions,
  type SequenceDefaults,
  type SequenceOptions,
} from './generate-options.js';
import type { GenerationConfig } from './generation-config.js';
import type { JsonObject } from './json-file.js';
import { judgeKeyScales, KV_CACHE_DTYPES, type KvCacheDtype } from './kv-cache-layer.js';
import { KvCaches } from './kv-caches.js';
import { ATTENTION_CHOICES, type AttentionChoice } from './layers/attention.js';
import { LINEAR_CHOICES, type LinearChoice } from './layers/linear.js';
import type { ModelConfig } from './model-config.js';
import { loadWeights, type ModelWeights } from './model-weights.js';
import { type ModelFiles, openModel } from './open-model.js';
import type { PageCounts } from './page-pool.js';
import { measurePerplexity, type Perplexity } from './perplexity.js';
import { randomModelFiles } from './random-model.js';
import { Scheduler } from './scheduler.js';
import { Session } from './session.js';
import type { Tokenizer } from './tokenizer.js';
import { Transformer } from './transformer.js';

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

export interface LogitsOptions extends SequenceOptions {}

export interface PerplexityOptions extends SequenceOptions {
  /** Tokens read at a time, 2 to the model's maximum (the default). */
  readonly window?: number | undefined;
  readonly onProgress?: ((fraction: number) => void) | undefined;
}

export interface ModelStatus {
  readonly backend: BackendStatus;
  readonly attention: AttentionChoice;
  readonly kvCacheDtype: KvCacheDtype;
  readonly kvKeyScales: KeyScales;
  readonly linear: LinearChoice;
  /** Sequences that hold a KV cache right now … */
  readonly sessions: number;
  /** … and the bytes of those caches. */
  readonly kvCacheBytes: number;
  /** Pages of 64 tokens: all, held by sequences, and kept for prompts that begin alike. */
  readonly pages: PageCounts;
  /** Prompt tokens so far, and those of them that earlier prompts had computed. */
  readonly prefixes: { readonly asked: number; readonly found: number };
  /** How often so far a sequence's pages were taken for another. */
  readonly preemptions: number;
}

/** Text, a conversation (put into the model's chat format), or token ids as they are. */
export type Prompt = string | readonly ChatMessage[] | readonly number[];

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
 * Loads a model: a folder in Hugging Face format (Llama, Mistral, Qwen2, Qwen3 or GPT-2, float or INT8 weights), or a GGUF file (Llama,
 * Mistral, Qwen2, Qwen3 in F32, F16, BF16, Q8_0, Q6_K, Q5_K, Q5_1, Q5_0, Q4_K, Q4_1 or Q4_0).
 *
 * @throws {IntFlashError} `ERR_MODEL_FORMAT`, `ERR_MODEL_LIMIT`, `ERR_TOKENIZER`, `ERR_UNSUPPORTED`, `ERR_ARG_*`; `loadSignal.reason`.
 */
export function loadModel(path: string, options: LoadOptions = {}): Promise<LanguageModel> {
  return loadFiles((opening) => openModel(path, opening), options);
}

/**
 * A model of the shape that `config` (the object in a config.json) describes, with random INT8 weights: for measuring speed.
 *
 * @throws as {@link loadModel}.
 */
export function loadRandomModel(config: JsonObject, options: LoadOptions = {}): Promise<LanguageModel> {
  return loadFiles(async (opening) => randomModelFiles(config, opening), options);
}

async function loadFiles(
  open: (options: CheckpointOptions) => Promise<ModelFiles>,
  options: LoadOptions,
): Promise<LanguageModel> {
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
  const threads = given.threads === undefined ? {} : { threads: given.threads as number };
  const backend = selectBackend(given.backend as BackendChoice | undefined, threads);
  signal?.throwIfAborted();
  onLoadProgress?.(0);
  const files = await open({
    signal,
    onProgress: ({ loadedBytes, totalBytes }) => onLoadProgress?.(Math.min(loadedBytes / totalBytes, 1)),
  });
  try {
    const { config } = files.weights;
    const caches = new KvCaches(config, cacheSettings, backend);
    if (bytes !== undefined) caches.contextLength(attention, kvCacheDtype); // refuses a limit that holds nothing, before the weights are read
    const tokenizer = await files.readTokenizer();
    const generation = await files.readGenerationConfig();
    const weights = await loadWeights(files.weights, backend, linear);
    onLoadProgress?.(1);
    return new LanguageModel({
      config,
      generation,
      tokenizer,
      weights,
      backend,
      caches,
      attention,
      kvCacheDtype,
      linear,
    });
  } finally {
    await files.weights.close();
  }
}

interface Parts extends SequenceDefaults {
  readonly config: ModelConfig;
  readonly generation: GenerationConfig;
  readonly tokenizer: Tokenizer;
  readonly weights: ModelWeights;
  readonly backend: Backend;
  readonly caches: KvCaches;
  readonly kvCacheDtype: KvCacheDtype;
  readonly linear: LinearChoice;
}

/**
 * A loaded model. Several answers may be drawn at once; each takes turns with the others on the event loop.
 *
 * Owns its weights and the sessions of its generations; dispose it, or declare it with `await using`.
 */
export class LanguageModel {
  readonly config: ModelConfig;
  readonly tokenizer: Tokenizer;
  /** What generation_config.json says. */
  readonly generationConfig: GenerationConfig;
  readonly #parts: Parts;
  readonly #model: GenerationModel;
  #disposed: Promise<void> | undefined;

  constructor(parts: Parts) {
    const { config, tokenizer, generation, weights, backend, caches } = parts;
    this.#parts = parts;
    this.config = config;
    this.tokenizer = tokenizer;
    this.generationConfig = generation;
    const eos = [...config.eosTokenIds, ...(generation.eosTokenIds ?? []), tokenizer.eosTokenId];
    const transformer = new Transformer(config, weights, backend, caches);
    this.#model = {
      transformer,
      scheduler: new Scheduler(transformer),
      tokenizer,
      eosTokenIds: new Set(eos.filter((id) => id !== undefined)),
      sessions: new Set(),
      expectLive: () => this.#expectLive(),
    };
  }

  /** Tokens of the longest prompt and answer together, with the arithmetic it was loaded with. */
  get contextLength(): number {
    return this.#contextLength(this.#parts);
  }

  /** What runs, and what it holds. */
  status(): ModelStatus {
    const { backend, attention, kvCacheDtype, linear, caches } = this.#parts;
    const { sessions, scheduler } = this.#model;
    return {
      backend: backend.status(),
      attention,
      kvCacheDtype,
      kvKeyScales: caches.keyScales,
      linear,
      sessions: sessions.size,
      kvCacheBytes: caches.bytes,
      pages: caches.counts(),
      prefixes: scheduler.prefixes,
      preemptions: scheduler.preemptions,
    };
  }

  /**
   * Token ids of a prompt, as {@link generate} reads it.
   *
   * @throws {IntFlashError} `ERR_TEMPLATE` for messages when the model has no chat template; `ERR_ARG_*`.
   */
  encode(prompt: Prompt): number[] {
    const ids = this.#promptIds(prompt);
    // An empty text still needs something to follow.
    return ids.length === 0 && typeof prompt === 'string' ? [this.#bosTokenId()] : ids;
  }

  /** Whether a drawn token ends an answer. */
  isEndToken(id: number): boolean {
    return this.#model.eosTokenIds.has(id);
  }

  /**
   * Draws an answer, token by token. Options are judged now, the computation starts with the first `next()`.
   *
   * @throws {IntFlashError} `ERR_DISPOSED`, `ERR_ARG_RANGE` when the prompt fills the context, `ERR_ARG_*`, `ERR_TEMPLATE`, `ERR_TOKENIZER_LIMIT`.
   */
  generate(prompt: Prompt, options: GenerateOptions = {}): Generation {
    this.#expectLive();
    const judged = judgeGenerateOptions(options, this.#parts, this.generationConfig, this.config.vocabSize);
    return new Generation(this.#model, this.#judgeIds(this.encode(prompt), this.#contextLength(judged) - 1), judged);
  }

  /**
   * @returns `[ids.length, vocabSize]`; row t scores the token after ids[0..t].
   * @throws as {@link generate}.
   */
  async logits(ids: readonly number[], options: LogitsOptions = {}): Promise<Float32Array> {
    this.#expectLive();
    const judged = judgeSequenceOptions(options, this.#parts);
    const judgedIds = this.#judgeIds(ids, this.#contextLength(judged));
    const session = new Session(this.#model, judged);
    try {
      const out = new Float32Array(judgedIds.length * this.config.vocabSize);
      await session.forward(judgedIds, (logits, first) => out.set(logits, first * this.config.vocabSize));
      return out;
    } finally {
      await session.close();
    }
  }

  /**
   * How well the model predicts `ids`: windows read one by one, all but the first token of each predicted.
   *
   * @param ids Two or more; a text's are `tokenizer.encode(text, { addSpecialTokens: false })`.
   * @throws as {@link generate}.
   */
  async perplexity(ids: readonly number[], options: PerplexityOptions = {}): Promise<Perplexity> {
    this.#expectLive();
    const judged = judgeSequenceOptions(options, this.#parts, ['window', 'onProgress']);
    const longest = this.#contextLength(judged);
    const window = checkInteger(options.window, 'window', longest, 2, longest);
    const onProgress = checkFunction(options.onProgress, 'onProgress');
    if (Array.isArray(ids) && ids.length < 2)
      throw new IntFlashError('ERR_ARG_RANGE', `Expected at least 2 tokens, got ${ids.length}`);
    const judgedIds = this.#judgeIds(ids, Number.MAX_SAFE_INTEGER);
    return measurePerplexity(this.#model, judgedIds, window, judged, onProgress);
  }

  /**
   * Ends what is under way (it rejects with `ERR_DISPOSED`) and frees weights and caches; twice is a no-op.
   *
   * @returns when all memory is free.
   */
  dispose(): Promise<void> {
    this.#disposed ??= this.#end();
    return this.#disposed;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.dispose();
  }

  async #end(): Promise<void> {
    const reason = disposedError();
    await Promise.all([...this.#model.sessions].map((session) => session.close(reason)));
    this.#model.transformer.dispose();
    this.#parts.weights.dispose();
    await this.#parts.backend.trim?.();
  }

  #expectLive(): void {
    if (this.#disposed) throw disposedError();
  }

  #contextLength({ attention, kvCacheDtype }: Pick<JudgedSequence, 'attention' | 'kvCacheDtype'>): number {
    return this.#model.transformer.contextLength(attention, kvCacheDtype);
  }

  #promptIds(prompt: unknown): number[] {
    if (typeof prompt === 'string') return this.tokenizer.encode(prompt);
    if (!Array.isArray(prompt)) {
      throw new IntFlashError(
        'ERR_ARG_TYPE',
        `Expected the prompt to be text, messages or token ids, got ${describe(prompt)}`,
      );
    }
    if (typeof prompt[0] === 'number' || prompt.length === 0) return prompt.slice();
    const { chatTemplate } = this.tokenizer;
    if (chatTemplate === undefined) {
      throw new IntFlashError('ERR_TEMPLATE', 'Expected a model with a chat template for messages, got one without', {
        hint: 'Pass the prompt as text.',
      });
    }
    const text = renderChatTemplate(chatTemplate, {
      messages: prompt as ChatMessage[],
      ...this.#specialText('bosToken', this.tokenizer.bosTokenId),
      ...this.#specialText('eosToken', this.tokenizer.eosTokenId),
    });
    return this.tokenizer.encode(text, { addSpecialTokens: false });
  }

  #specialText(name: 'bosToken' | 'eosToken', id: number | undefined): Record<string, string> {
    return id === undefined ? {} : { [name]: this.tokenizer.token(id) };
  }

  #bosTokenId(): number {
    const id = this.tokenizer.bosTokenId ?? this.config.bosTokenId;
    if (id === undefined) throw new IntFlashError('ERR_ARG_RANGE', 'Expected a prompt of at least one token, got none');
    return id;
  }

  #judgeIds(ids: unknown, longest: number): number[] {
    if (!Array.isArray(ids))
      throw new IntFlashError('ERR_ARG_TYPE', `Expected token ids to be an array, got ${describe(ids)}`);
    if (ids.length < 1 || ids.length > longest) {
      throw new IntFlashError('ERR_ARG_RANGE', `Expected 1 to ${longest} tokens, got ${ids.length}`, {
        hint: `The context holds ${longest < this.config.maxPositions - 1 ? longest + 1 : this.config.maxPositions} tokens.`,
      });
    }
    return Array.from(ids, (id: unknown, i) => checkInteger(id ?? null, `token ${i}`, 0, 0, this.config.vocabSize - 1));
  }
}

function disposedError(): IntFlashError {
  return new IntFlashError('ERR_DISPOSED', 'Expected a live model, got one that was disposed');
}

function checkFunction(value: unknown, name: string): ((fraction: number) => void) | undefined {
  if (value === undefined) return undefined;
  if (typeof value !== 'function')
    throw new IntFlashError('ERR_ARG_TYPE', `Expected ${name} to be a function, got ${describe(value)}`);
  return value as (fraction: number) => void;
}
