import type { LanguageModel } from '@int-flash/llm';
import { seededUniform } from '@int-flash/reference';

/**
 * Fills a model's cache with sequences of full length, one after another, until one of them would have to give its pages up.
 *
 * @returns Those that were there together.
 */
export async function countSequences(model: LanguageModel, signal: AbortSignal): Promise<number> {
  const held: AsyncIterator<unknown>[] = [];
  const random = seededUniform(1);
  const before = model.status().preemptions;
  try {
    for (;;) {
      // Its second token, which is not asked for, keeps it there.
      const ids = Array.from({ length: model.contextLength - 2 }, () => Math.floor(random() * model.config.vocabSize));
      signal.throwIfAborted();
      const generation = model.generate(ids, { temperature: 0, maxTokens: 2, ignoreEos: true });
      held.push(generation);
      await generation.next();
      if (model.status().preemptions > before) return held.length - 1;
    }
  } finally {
    for (const generation of held) await generation.return?.();
  }
}
