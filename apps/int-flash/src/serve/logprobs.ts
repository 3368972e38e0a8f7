import type { Engine, EngineToken } from './engine.js';
import type { ToldToken } from './told-tokens.js';

/** A token's log-probability as chat completions tell it. */
export interface ChatLogprob {
  readonly token: string;
  readonly logprob: number;
  readonly bytes: readonly number[];
  readonly top_logprobs: readonly Omit<ChatLogprob, 'top_logprobs'>[];
}

/** Log-probabilities as plain completions tell them: lists side by side. */
export interface TextLogprobs {
  readonly tokens: string[];
  readonly token_logprobs: number[];
  readonly top_logprobs: Record<string, number>[] | null;
  /** Where each token's text begins, in characters of the completion. */
  readonly text_offset: number[];
}

/** JSON has no -Infinity; the API says -9999 for what cannot happen. */
const IMPOSSIBLE = -9999;

export function chatLogprob(engine: Engine, { tokenId, logprob, topLogprobs = [] }: EngineToken): ChatLogprob {
  const entry = (id: number, value: number) => {
    const { text, bytes } = engine.tokenText(id);
    return { token: text, logprob: finite(value), bytes };
  };
  return {
    ...entry(tokenId, logprob ?? IMPOSSIBLE),
    top_logprobs: topLogprobs.map((top) => entry(top.tokenId, top.logprob)),
  };
}

export function textLogprobs(engine: Engine, tokens: readonly ToldToken[]): TextLogprobs {
  const wantsTop = tokens.some(({ topLogprobs }) => topLogprobs !== undefined);
  const text = (id: number) => engine.tokenText(id).text;
  return {
    tokens: tokens.map(({ tokenId }) => text(tokenId)),
    token_logprobs: tokens.map(({ logprob }) => finite(logprob ?? IMPOSSIBLE)),
    top_logprobs: wantsTop
      ? tokens.map(({ topLogprobs = [] }) =>
          Object.fromEntries(topLogprobs.map(({ tokenId, logprob }) => [text(tokenId), finite(logprob)])),
        )
      : null,
    text_offset: tokens.map(({ start }) => start),
  };
}

function finite(logprob: number): number {
  return Number.isFinite(logprob) ? logprob : IMPOSSIBLE;
}
