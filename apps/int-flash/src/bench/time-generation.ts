import { setMaxListeners } from 'node:events';
import type { LanguageModel } from '@int-flash/llm';
import { seededUniform } from '@int-flash/reference';
import type { GenerationTiming, TimingRequest } from '../runtime.js';

/** Draws after `batch` prompts of random tokens at once; an end token ends nothing, so every run has the same length. */
export async function timeGeneration(
  model: LanguageModel,
  { batch, promptTokens, newTokens }: TimingRequest,
  signal: AbortSignal,
): Promise<GenerationTiming> {
  setMaxListeners(0, signal); // one for each sequence, which Node would warn of on stderr
  const started = performance.now();
  const times = await Promise.all(
    Array.from({ length: batch }, async (_, sequence) => {
      const random = seededUniform(sequence + 1);
      const ids = Array.from({ length: promptTokens }, () => Math.floor(random() * model.config.vocabSize));
      const drawn: number[] = [];
      const generation = model.generate(ids, { temperature: 0, maxTokens: newTokens, ignoreEos: true, signal });
      for await (const _token of generation) drawn.push(performance.now());
      return drawn;
    }),
  );
  const firsts = times.map((drawn) => drawn[0]!);
  const allStarted = Math.max(...firsts);
  const ended = Math.max(...times.map((drawn) => drawn.at(-1)!));
  const counted = times.flat().filter((time) => time > allStarted).length;
  return {
    promptMs: allStarted - started,
    firstTokenMs: Math.min(...firsts) - started,
    tokensPerSecond: (1000 * counted) / (ended - allStarted),
  };
}
