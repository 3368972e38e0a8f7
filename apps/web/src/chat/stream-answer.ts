import type { ServerClient } from '../server/server-client';
import type { AnswerPace, Message } from './message';
import type { SamplingSettings } from './sampling-settings';

interface Chunk {
  readonly choices?: readonly {
    readonly delta?: { readonly content?: string | null };
    readonly text?: string;
    readonly finish_reason?: string | null;
  }[];
  readonly usage?: { readonly prompt_tokens: number; readonly completion_tokens: number } | null;
}

/** What has come so far. */
export interface AnswerSoFar {
  readonly text: string;
  readonly pace: AnswerPace;
}

/**
 * Asks for an answer to `messages` and yields what there is after each event.
 *
 * While it streams, an event counts as one token; the server's own count replaces that at the end.
 */
export async function* streamAnswer(
  client: ServerClient,
  messages: readonly Message[],
  settings: SamplingSettings,
  chatTemplate: boolean,
  signal: AbortSignal,
): AsyncGenerator<AnswerSoFar> {
  const sent = performance.now();
  let first: number | undefined;
  let text = '';
  let pace: AnswerPace = { tokens: 0 };
  const path = chatTemplate ? 'v1/chat/completions' : 'v1/completions';
  for await (const chunk of client.events<Chunk>(path, requestBody(messages, settings, chatTemplate), signal)) {
    const now = performance.now();
    const choice = chunk.choices?.[0];
    const piece = choice?.delta?.content ?? choice?.text ?? '';
    if (piece !== '') {
      text += piece;
      first ??= now;
      const tokens = pace.tokens + 1;
      pace = { ...pace, tokens, firstTokenMs: first - sent, ...rate(tokens, now - first) };
    }
    if (choice?.finish_reason) pace = { ...pace, finishReason: choice.finish_reason };
    if (chunk.usage) {
      const { prompt_tokens: promptTokens, completion_tokens: tokens } = chunk.usage;
      pace = { ...pace, tokens, promptTokens, ...(first !== undefined && rate(tokens, now - first)) };
    }
    yield { text, pace };
  }
}

function rate(tokens: number, ms: number): { tokensPerSecond?: number } {
  return tokens > 1 && ms > 0 ? { tokensPerSecond: ((tokens - 1) * 1000) / ms } : {};
}

function requestBody(messages: readonly Message[], settings: SamplingSettings, chatTemplate: boolean): unknown {
  const said = messages.map(({ role, text }) => ({ role, content: text }));
  const system = settings.system.trim() === '' ? [] : [{ role: 'system', content: settings.system }];
  return {
    ...(chatTemplate
      ? { messages: [...system, ...said] }
      : { prompt: [...system, ...said].map(({ content }) => content).join('') }),
    stream: true,
    stream_options: { include_usage: true },
    temperature: settings.temperature,
    top_p: settings.topP,
    max_tokens: settings.maxTokens,
    ...(settings.seed !== undefined && { seed: settings.seed }),
  };
}
