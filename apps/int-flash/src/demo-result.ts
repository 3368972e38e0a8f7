import type { Answer } from './answer.js';
import type { LogitDifference } from './attention-error.js';
import type { CacheOptions, ModelOptions, SamplingOptions } from './options.js';
import type { Model } from './runtime.js';

export type DemoOptions = ModelOptions &
  SamplingOptions &
  CacheOptions & {
    readonly prompt?: string;
    readonly web?: boolean;
  };

/** A prompt, the answer to it, and the tokens of both. */
export interface PlayedScene {
  readonly prompt: string;
  readonly answer: Answer;
  readonly ids: readonly number[];
}

export interface DemoResult {
  readonly model: Model;
  readonly options: DemoOptions;
  readonly seed: number;
  readonly scenes: readonly PlayedScene[];
  readonly generatedTokens: number;
  readonly tokensPerSecond: number;
  readonly timeToFirstTokenMs: number;
  readonly loadMs: number;
  /** Absent when fp32 attention itself was run. */
  readonly difference?: LogitDifference;
}
