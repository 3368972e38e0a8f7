import { selectBackend } from '@int-flash/attention';
import {
  type Backend,
  type BackendStatus,
  checkInteger,
  describe,
  IntFlashError,
  type KeyScales,
  readArguments,
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
import type { KvCacheDtype } from './kv-cache-layer.js';
import { KvCaches } from './kv-caches.js';
import type { AttentionChoice } from './layers/attention.js';
import type { LinearChoice } from './layers/linear.js';
import { checkFunction, judgeLoadOptions, type LoadOptions } from './load-options.js';
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
  const judged = judgeLoadOptions(options);
  const { bytes, signal, onLoadProgress, linear, attention, kvCacheDtype, cacheSettings } = judged;
  const backend = selectBackend(judged.backend.choice, judged.backend.options);
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
    return this.#encode(prompt, Number.MAX_SAFE_INTEGER);
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
    const longest = this.#contextLength(judged) - 1;
    const ids = this.#encode(prompt, longest);
    this.#checkLength(ids.length, longest);
    return new Generation(this.#model, ids, judged);
  }

  /**
   * @returns `[ids.length, vocabSize]`; row t scores the token after ids[0..t].
   * @throws as {@link generate}.
   */
  async logits(ids: readonly number[], options: LogitsOptions = {}): Promise<Float32Array> {
    this.#expectLive();
    const { judged } = judgeSequenceOptions(options, this.#parts);
    const longest = this.#contextLength(judged);
    const judgedIds = readArguments(() => this.#judgeIds(ids, longest));
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
    const { judged, more } = judgeSequenceOptions(options, this.#parts, ['window', 'onProgress']);
    const longest = this.#contextLength(judged);
    const { window, onProgress } = readArguments(() => ({
      window: checkInteger(more.window, 'window', longest, 2, longest),
      onProgress: checkFunction(more.onProgress, 'onProgress'),
    }));
    const judgedIds = readArguments(() => {
      if (Array.isArray(ids) && ids.length < 2)
        throw new IntFlashError('ERR_ARG_RANGE', `Expected at least 2 tokens, got ${ids.length}`);
      return this.#judgeIds(ids, Number.MAX_SAFE_INTEGER);
    });
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

  /** @param longest Of token ids: more are not read. */
  #encode(prompt: unknown, longest: number): number[] {
    if (typeof prompt !== 'string') {
      return readArguments(() => this.#givenIds(prompt, longest)) ?? this.#encodeMessages(prompt as ChatMessage[]);
    }
    const ids = this.tokenizer.encode(prompt);
    return ids.length > 0 ? ids : [this.#bosTokenId()]; // an empty text still needs something to follow
  }

  /** Undefined for messages. */
  #givenIds(prompt: unknown, longest: number): number[] | undefined {
    if (!Array.isArray(prompt)) {
      throw new IntFlashError(
        'ERR_ARG_TYPE',
        `Expected the prompt to be text, messages or token ids, got ${describe(prompt)}`,
      );
    }
    if (prompt.length === 0) return [];
    return typeof prompt[0] === 'number' ? this.#judgeIds(prompt, longest) : undefined;
  }

  #encodeMessages(messages: readonly ChatMessage[]): number[] {
    const { chatTemplate } = this.tokenizer;
    if (chatTemplate === undefined) {
      throw new IntFlashError('ERR_TEMPLATE', 'Expected a model with a chat template for messages, got one without', {
        hint: 'Pass the prompt as text.',
      });
    }
    const text = renderChatTemplate(chatTemplate, {
      messages,
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
    const { length } = ids;
    this.#checkLength(length, longest);
    const { vocabSize } = this.config;
    const judged: number[] = [];
    // One by one, up to the first that is none: an array's length says nothing about what it holds.
    for (let i = 0; i < length; i++) {
      const id: unknown = ids[i];
      const isToken = typeof id === 'number' && Number.isInteger(id) && id >= 0 && id < vocabSize;
      judged.push(isToken ? id : checkInteger(id ?? null, `token ${i}`, 0, 0, vocabSize - 1));
    }
    return judged;
  }

  #checkLength(length: number, longest: number): void {
    if (length >= 1 && length <= longest) return;
    throw new IntFlashError('ERR_ARG_RANGE', `Expected 1 to ${longest} tokens, got ${length}`, {
      hint: `The context holds ${longest < this.config.maxPositions - 1 ? longest + 1 : this.config.maxPositions} tokens.`,
    });
  }
}

function disposedError(): IntFlashError {
  return new IntFlashError('ERR_DISPOSED', 'Expected a live model, got one that was disposed');
}
