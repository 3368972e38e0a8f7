import type { FinishReason, Model, Prompt, SamplingSettings } from './runtime.js';

/** One answer with its timing; times in milliseconds of wall clock, as the user waits for them. */
export interface Answer {
  readonly text: string;
  readonly tokenIds: readonly number[];
  readonly promptTokens: number;
  readonly finishReason: FinishReason;
  /** Given, or drawn when none was. */
  readonly seed: number;
  /** From the call to the first token, so reading the prompt is in it. */
  readonly timeToFirstTokenMs: number;
  /** Of the tokens after the first; of all of them when there is only one. */
  readonly tokensPerSecond: number;
}

/** Generates an answer, handing each piece of text to `onText` as it comes. */
export async function answer(
  model: Model,
  prompt: Prompt,
  settings: SamplingSettings,
  signal: AbortSignal,
  onText: (text: string) => Promise<void>,
): Promise<Answer> {
  const promptTokens = model.encode(prompt).length;
  const tokenIds: number[] = [];
  let text = '';
  let finishReason: FinishReason = 'length';
  let seed = 0;
  const started = performance.now();
  let first = started;
  let last = started;
  for await (const event of model.generate(prompt, settings, signal)) {
    if (event.type === 'finish') {
      finishReason = event.reason;
      seed = event.seed;
      continue;
    }
    last = performance.now();
    if (tokenIds.length === 0) first = last;
    tokenIds.push(event.tokenId);
    text += event.text;
    if (event.text !== '') await onText(event.text);
  }
  const later = tokenIds.length > 1;
  const seconds = (last - (later ? first : started)) / 1000;
  const tokensPerSecond = seconds > 0 ? (tokenIds.length - (later ? 1 : 0)) / seconds : 0;
  return { text, tokenIds, promptTokens, finishReason, seed, timeToFirstTokenMs: first - started, tokensPerSecond };
}
