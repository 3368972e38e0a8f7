import { expect } from 'vitest';
import type { GenerateOptions, LanguageModel } from '../src/index.js';

export interface Request {
  readonly prompt: readonly number[];
  readonly options: GenerateOptions;
}

/** Ids, and log-probabilities where they are wanted: equal ones mean equal logits, to the bit. */
export async function answer(model: LanguageModel, { prompt, options }: Request): Promise<string> {
  const told: unknown[] = [];
  for await (const { tokenId, logprob } of model.generate(prompt, options)) told.push(tokenId, logprob ?? null);
  return JSON.stringify(told);
}

/** More than a step guesses and draws at most: an answer that lacks as many tokens has another step to ask for, and hears there that it was aborted. */
export const SPARE_TOKENS = 12;

/**
 * Reads an answer of more than `SPARE_TOKENS` tokens until it is aborted, which it has to be: after some tokens or, where `after` is given, after so
 * many milliseconds if that is sooner.
 * @param integer a random number below its argument
 * @returns how many tokens it got
 */
export async function abortAtRandom(
  model: LanguageModel,
  { prompt, options }: Request,
  integer: (below: number) => number,
  after?: number,
): Promise<number> {
  const controller = new AbortController();
  const enough = () => controller.abort('enough');
  const timer = after === undefined ? undefined : setTimeout(enough, after);
  const most = 1 + integer(options.maxTokens! - SPARE_TOKENS);
  let drawn = 0;
  const read = async () => {
    for await (const _ of model.generate(prompt, { ...options, signal: controller.signal }))
      if (++drawn >= most) enough();
  };
  await expect(read()).rejects.toBe('enough');
  clearTimeout(timer);
  return drawn;
}
