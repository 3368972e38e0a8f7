import type { LanguageModel } from '@int-flash/llm';
import { KV_PAGE_TOKENS } from '@int-flash/ops';
import { seededUniform } from '@int-flash/reference';

export interface Filling {
  /** Of each sequence; those of full length by default. */
  readonly tokens?: number;
  /**
   * Awaited with every one more that is there. @param isFull Whether it is the last: when another finds no room, those that nobody waits for have lost
   * their pages.
   */
  readonly watch?: (sequences: number, isFull: boolean) => Promise<void>;
}

/**
 * Fills a model's cache with sequences, one after another, until one of them would have to give its pages up.
 *
 * @returns Those that were there together.
 */
export async function countSequences(
  model: LanguageModel,
  signal: AbortSignal,
  { tokens = model.contextLength, watch }: Filling = {},
): Promise<number> {
  const held: AsyncIterator<unknown>[] = [];
  const begin = beginner(model);
  const before = model.status().preemptions;
  try {
    for (;;) {
      signal.throwIfAborted();
      held.push(await begin(tokens - 2));
      if (model.status().preemptions > before) return held.length - 1;
      const { pages, used } = model.status().pages;
      await watch?.(held.length, pages - used < Math.ceil(tokens / KV_PAGE_TOKENS));
    }
  } finally {
    for (const generation of held) await generation.return?.();
  }
}

/** @returns Bytes that the cache of one sequence of so many tokens takes, as allocated. */
export async function sequenceBytes(model: LanguageModel, tokens: number): Promise<number> {
  const held = await beginner(model)(tokens);
  try {
    return model.status().kvCacheBytes;
  } finally {
    await held.return?.();
  }
}

/** Reads prompts of random tokens. A second token after each, which is not asked for, keeps it there. */
function beginner(model: LanguageModel): (tokens: number) => Promise<AsyncIterator<unknown>> {
  const random = seededUniform(1);
  return async (tokens) => {
    const ids = Array.from({ length: tokens }, () => Math.floor(random() * model.config.vocabSize));
    const generation = model.generate(ids, { temperature: 0, maxTokens: 2, ignoreEos: true });
    await generation.next();
    return generation;
  };
}
