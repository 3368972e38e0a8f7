import type { GenerateOptions, TokenLogprob } from '@int-flash/llm';
import type { BackendStatus } from '@int-flash/ops';

export interface ChatTurn {
  readonly role: 'system' | 'user' | 'assistant';
  readonly content: string;
}

/** How one sequence is drawn; what is absent the model decides. */
export type EngineSettings = Pick<
  GenerateOptions,
  | 'temperature'
  | 'topK'
  | 'topP'
  | 'minP'
  | 'repeatPenalty'
  | 'presencePenalty'
  | 'frequencyPenalty'
  | 'seed'
  | 'logprobs'
  | 'ignoreEos'
> & {
  readonly maxTokens: number;
  readonly logitBias?: ReadonlyMap<number, number> | undefined;
  readonly stop?: readonly string[] | undefined;
};

export interface EngineToken {
  readonly tokenId: number;
  /** Text that is certain with it; empty while a character or a stop string is incomplete. */
  readonly text: string;
  /** With the last token only. */
  readonly finishReason?: 'stop' | 'length';
  readonly logprob?: number;
  readonly topLogprobs?: readonly TokenLogprob[];
  /** With a log-probability: where its own text ends, in characters of all that was drawn, whatever a stop string cut off. */
  readonly textEnd?: number;
}

/** What a status page tells of a model. */
export interface EngineFacts {
  readonly backend: BackendStatus;
  readonly attention: string;
  readonly kvCacheDtype: string;
  readonly kvKeyScales: string;
  /** Text of the token that ends an answer. */
  readonly eosToken?: string | undefined;
  readonly sampling: {
    readonly temperature: number;
    readonly topP: number;
    readonly topK: number;
    readonly minP: number;
  };
}

/** The pages that sequences' keys and values lie in, and what became of them so far. */
export interface EngineCache {
  readonly pages: number;
  /** Held by sequences … */
  readonly usedPages: number;
  /** … and kept for prompts that begin alike. */
  readonly keptPages: number;
  readonly promptTokens: number;
  /** Those of them that earlier prompts had computed. */
  readonly foundTokens: number;
  /** How often a sequence's pages were taken for another. */
  readonly preemptions: number;
}

/** What the server needs of a model: llm-engine.ts makes one of a loaded model, tests bring their own. */
export interface Engine {
  readonly name: string;
  readonly facts: EngineFacts;
  /** Tokens of prompt and answer together. */
  readonly contextLength: number;
  readonly vocabSize: number;
  readonly hasChatTemplate: boolean;
  /** No text of more UTF-16 units than this a token fits the context. */
  readonly longestToken: number;
  encodeText(text: string): number[];
  encodeChat(turns: readonly ChatTurn[]): number[];
  /** A token's own text, special ones included, and its bytes, which may be part of a character. */
  tokenText(id: number): { readonly text: string; readonly bytes: readonly number[] };
  isEnd(id: number): boolean;
  /** Rejects with `signal.reason` when aborted. Leaving the loop ends the computation. */
  generate(ids: readonly number[], settings: EngineSettings, signal: AbortSignal): AsyncIterable<EngineToken>;
  /** Sequences that hold a KV cache now, and its bytes. */
  held(): { readonly sequences: number; readonly kvCacheBytes: number };
  cache(): EngineCache;
  dispose(): Promise<void>;
}
