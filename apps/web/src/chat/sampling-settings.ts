import type { ServerStatus } from '../server/server-status';

export interface SamplingSettings {
  readonly system: string;
  readonly temperature: number;
  readonly topP: number;
  readonly maxTokens: number;
  /** Same seed and settings, same answer; undefined draws one each time. */
  readonly seed: number | undefined;
}

const MAX_TOKENS = 256; // half a minute of reading; more can be asked for

/** What the model's makers advise, and an answer of at most half the context. */
export function defaultSettings({ sampling, contextLength }: ServerStatus): SamplingSettings {
  return {
    system: '',
    temperature: sampling?.temperature ?? 0.7,
    topP: sampling?.topP ?? 0.95,
    maxTokens: Math.min(MAX_TOKENS, Math.floor(contextLength / 2)),
    seed: undefined,
  };
}
