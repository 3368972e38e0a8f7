import type { BackendStatus, KeyScales } from '@int-flash/ops';
import type { Filling } from './experiments/count-sequences.js';
import type { ReproductionSettings } from './experiments/reproduction.js';
import type { OnProgress } from './progress-bar.js';
import type { Report, ReportPart } from './report/report-sections.js';
import type { Engine } from './serve/engine.js';

export const BACKEND_CHOICES = ['auto', 'cuda', 'cpu', 'portable'] as const;
export const ATTENTION_CHOICES = ['int8', 'fp32'] as const;
export const LINEAR_CHOICES = ['auto', 'fp32', 'int8'] as const;
export const KV_CACHE_CHOICES = ['fp32', 'fp16', 'int8', 'int4'] as const;
export const KEY_SCALES_CHOICES = ['token', 'channel'] as const satisfies readonly KeyScales[];

export type BackendChoice = (typeof BACKEND_CHOICES)[number];
export type AttentionChoice = (typeof ATTENTION_CHOICES)[number];
export type LinearChoice = (typeof LINEAR_CHOICES)[number];
export type KvCacheDtype = (typeof KV_CACHE_CHOICES)[number];
export type { KeyScales };

export interface ChatMessage {
  readonly role: 'system' | 'user' | 'assistant';
  readonly content: string;
}

/** Text as it is, or a conversation to be put into the model's chat format. */
export type Prompt = string | readonly ChatMessage[];

export interface LoadSettings {
  readonly backend: BackendChoice;
  readonly threads?: number;
  readonly attention: AttentionChoice;
  /** Absent: int8 for INT8 attention, fp32 for fp32. */
  readonly kvCacheDtype?: KvCacheDtype;
  /** Of int8 and int4; absent: `token`. */
  readonly kvKeyScales?: KeyScales;
  readonly linear: LinearChoice;
  /** Memory for the keys and values of all sequences; absent: what llm takes by itself. */
  readonly kvCacheBytes?: number;
  /** False: every prompt is computed from its beginning. */
  readonly prefixCache?: boolean;
  readonly onProgress?: OnProgress;
  readonly signal?: AbortSignal;
}

/** What of the sampler the command line can set; what is absent, the model's generation_config.json decides. */
export interface SamplingSettings {
  readonly seed?: number;
  readonly temperature?: number;
  readonly topK?: number;
  readonly topP?: number;
  readonly minP?: number;
  readonly repeatPenalty?: number;
  readonly maxTokens?: number;
  readonly stop?: readonly string[];
  /** Tokens to guess ahead. */
  readonly speculate?: number;
}

/** What a server adds to a model. */
export interface EngineLimits {
  /** Fewer tokens than the model can. */
  readonly contextLength?: number | undefined;
  /** Tokens to guess ahead in every answer. */
  readonly speculate?: number | undefined;
}

export type FinishReason = 'stop' | 'length';

export type GenerationEvent =
  | { readonly type: 'text'; readonly text: string; readonly tokenId: number }
  | { readonly type: 'finish'; readonly reason: FinishReason; readonly seed: number };

export interface ModelFacts {
  readonly folder: string;
  readonly name: string;
  readonly architecture: string;
  readonly parameters: number;
  /** Of the weight files. */
  readonly bytes: number;
  /** How the weights of the linear layers are stored, e.g. `int8` or `bfloat16`. */
  readonly weights: string;
  readonly contextLength: number;
  readonly vocabularySize: number;
}

/** A loaded model, as the commands use it; runtime-llm.ts makes one of `@int-flash/llm`, tests make a fake. */
export interface Model {
  readonly facts: ModelFacts;
  readonly backend: BackendStatus;
  /** One sentence. */
  readonly whyBackend: string;
  readonly attention: AttentionChoice;
  readonly kvCacheDtype: KvCacheDtype;
  readonly kvKeyScales: KeyScales;
  readonly hasChatTemplate: boolean;
  /** Tokens of a prompt: with the chat format and its opening for an answer, or of plain text. */
  encode(prompt: Prompt): number[];
  /** Sequences that the cache holds at once, of full length unless said otherwise. */
  countSequences(signal: AbortSignal, filling?: Filling): Promise<number>;
  /** Bytes that the cache of one sequence takes, as allocated. */
  sequenceBytes(tokens: number): Promise<number>;
  generate(prompt: Prompt, settings: SamplingSettings, signal: AbortSignal): AsyncIterable<GenerationEvent>;
  /** [ids.length, vocabularySize]: row t scores the token after ids[0..t]. */
  logits(ids: readonly number[], arithmetic: AttentionArithmetic, signal: AbortSignal): Promise<Float32Array>;
  /** Reads the text in windows and predicts all but the first token of each. */
  perplexity(text: string, window: number, signal: AbortSignal, onProgress: OnProgress): Promise<PerplexityResult>;
  /** Draws `newTokens` greedily after each of `batch` prompts of random tokens, all at once, and times it. */
  timeGeneration(request: TimingRequest, signal: AbortSignal): Promise<GenerationTiming>;
  /** Bytes that the caches of the sequences under way hold, as allocated. */
  kvCacheBytes(): number;
  dispose(): Promise<void>;
}

export interface TimingRequest {
  readonly batch: number;
  readonly promptTokens: number;
  /** Two or more. */
  readonly newTokens: number;
}

export interface GenerationTiming {
  /** Until every sequence has its first token. */
  readonly promptMs: number;
  /** Until the first of them has. */
  readonly firstTokenMs: number;
  /** New tokens a second of all sequences together, once every one has its first. */
  readonly tokensPerSecond: number;
}

export interface AttentionArithmetic {
  readonly attention: AttentionChoice;
  readonly kvCacheDtype: KvCacheDtype;
}

export interface PerplexityResult {
  readonly perplexity: number;
  readonly natsPerToken: number;
  readonly tokens: number;
  readonly predicted: number;
}

export interface TensorFacts {
  readonly name: string;
  readonly dtype: string;
  readonly shape: readonly number[];
  readonly bytes: number;
}

export interface SpecialToken {
  readonly id: number;
  readonly text: string;
  readonly role?: 'bos' | 'eos' | 'pad';
}

/** What a model's files say about it, read without loading the weights. */
export interface ModelDescription extends ModelFacts {
  readonly layers: number;
  readonly hiddenSize: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly feedForwardSize: number;
  readonly tiedEmbeddings: boolean;
  readonly quantization: string;
  readonly slidingWindow: number | null;
  readonly chatTemplate: boolean;
  readonly specialTokens: readonly SpecialToken[];
  readonly tensors: readonly TensorFacts[];
}

export interface BackendReport {
  readonly backends: readonly BackendStatus[];
  /** What `auto` takes here and why. */
  readonly auto: { readonly name: string | null; readonly why: string };
  readonly supportedIsas: readonly string[];
}

export interface QuantizeSettings {
  readonly bits: 8 | 4;
  /** Columns that share a scale, with 4 bits. */
  readonly group?: 32 | 64 | 128;
  readonly overwrite: boolean;
  readonly signal: AbortSignal;
  readonly onProgress: OnProgress;
}

export interface QuantizeSummary {
  readonly tensors: number;
  readonly quantized: number;
  readonly bytesIn: number;
  readonly bytesOut: number;
}

/** Everything the commands ask of the library. */
export interface Runtime {
  loadModel(folder: string, settings: LoadSettings): Promise<Model>;
  /** A model of a shape, with random weights. @param config the object in a config.json */
  loadRandomModel(name: string, config: Readonly<Record<string, unknown>>, settings: LoadSettings): Promise<Model>;
  /** The same for the server. */
  loadEngine(folder: string, settings: LoadSettings, limits?: EngineLimits): Promise<Engine>;
  describeModel(folder: string): Promise<ModelDescription>;
  describeBackends(): Promise<BackendReport>;
  /** Measures what `reproduce` reports. */
  reproduce(part: ReportPart, settings: ReproductionSettings, onProgress: OnProgress): Promise<Report>;
  quantize(from: string, to: string, settings: QuantizeSettings): Promise<QuantizeSummary>;
}
