import { randomBytes } from 'node:crypto';
import type { Usage } from './completion-run.js';
import type { Engine } from './engine.js';
import { chatLogprob, textLogprobs } from './logprobs.js';
import type { ToldToken } from './told-tokens.js';

export type FinishReason = 'stop' | 'length';

/** A choice that was drawn to its end. */
export interface DrawnChoice {
  readonly index: number;
  readonly text: string;
  /** Those to tell log-probabilities of, if they were asked for. */
  readonly tokens: readonly ToldToken[];
  readonly finishReason: FinishReason;
}

/** How answers of one endpoint look, whole and in pieces. */
export interface AnswerFormat {
  whole(choices: readonly DrawnChoice[], usage: Usage): unknown;
  /** Events that open a choice, as JSON. */
  opening(index: number): string[];
  /** Undefined: there is nothing to tell. `tokens`: those to tell log-probabilities of now. */
  piece(index: number, text: string, tokens: readonly ToldToken[]): string | undefined;
  closing(index: number, reason: FinishReason): string[];
  usage(usage: Usage): string;
}

interface Wanted {
  readonly logprobs: boolean;
  /** Every event then has a usage field, null until the last. */
  readonly includeUsage: boolean;
}

export function chatFormat(engine: Engine, { logprobs, includeUsage }: Wanted): AnswerFormat {
  const head = { id: newId('chatcmpl'), created: seconds(), model: engine.name, system_fingerprint: null };
  const eventHead = { ...head, object: 'chat.completion.chunk' };
  const event = eventsWith(eventHead, includeUsage);
  // The end token is no part of the answer.
  const told = (tokens: readonly ToldToken[]) =>
    tokens.filter(({ tokenId }) => !engine.isEnd(tokenId)).map((token) => chatLogprob(engine, token));
  return {
    whole: (choices, usage) => ({
      ...head,
      object: 'chat.completion',
      choices: choices.map(({ index, text, tokens, finishReason }) => ({
        index,
        message: { role: 'assistant', content: text, refusal: null },
        logprobs: logprobs ? { content: told(tokens), refusal: null } : null,
        finish_reason: finishReason,
      })),
      usage,
    }),
    opening: (index) => [
      event([{ index, delta: { role: 'assistant', content: '' }, logprobs: null, finish_reason: null }]),
    ],
    piece: (index, text, tokens) => {
      const content = told(tokens);
      if (text === '' && content.length === 0) return undefined;
      return event([
        {
          index,
          delta: { content: text },
          logprobs: logprobs ? { content, refusal: null } : null,
          finish_reason: null,
        },
      ]);
    },
    closing: (index, reason) => [event([{ index, delta: {}, logprobs: null, finish_reason: reason }])],
    usage: (usage) => event([], usage),
  };
}

export function textFormat(engine: Engine, { logprobs, includeUsage }: Wanted): AnswerFormat {
  const head = { id: newId('cmpl'), object: 'text_completion', created: seconds(), model: engine.name };
  const event = eventsWith(head, includeUsage);
  return {
    whole: (choices, usage) => ({
      ...head,
      choices: choices.map(({ index, text, tokens, finishReason }) => ({
        index,
        text,
        logprobs: logprobs ? textLogprobs(engine, tokens) : null,
        finish_reason: finishReason,
      })),
      usage,
    }),
    opening: () => [],
    piece: (index, text, tokens) => {
      if (text === '' && tokens.length === 0) return undefined;
      const told = logprobs ? textLogprobs(engine, tokens) : null;
      return event([{ index, text, logprobs: told, finish_reason: null }]);
    },
    closing: (index, reason) => [event([{ index, text: '', logprobs: null, finish_reason: reason }])],
    usage: (usage) => event([], usage),
  };
}

/** An event a token, for every stream: the part that never changes is not put together anew. */
function eventsWith(head: object, includeUsage: boolean) {
  const opened = JSON.stringify(head).slice(0, -1);
  return (choices: unknown[], usage: Usage | null = null): string => {
    const told = includeUsage ? `,"usage":${JSON.stringify(usage)}` : '';
    return `${opened},"choices":${JSON.stringify(choices)}${told}}`;
  };
}

function newId(kind: string): string {
  return `${kind}-${randomBytes(12).toString('hex')}`;
}

function seconds(): number {
  return Math.floor(Date.now() / 1000);
}
