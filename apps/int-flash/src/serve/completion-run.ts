import { invalid } from './api-error.js';
import type { CompletionRequest } from './completion-request.js';
import type { Engine, EngineToken } from './engine.js';

export interface Usage {
  readonly prompt_tokens: number;
  readonly completion_tokens: number;
  readonly total_tokens: number;
}

/** One answer being drawn, of the n times as many as there are prompts. */
export interface Choice {
  readonly index: number;
  readonly promptIds: readonly number[];
  readonly tokens: AsyncIterable<EngineToken>;
}

/** What a request asks to be drawn, judged against the model and the room in its context; nothing is computed yet. */
export interface CompletionRun {
  readonly choices: readonly Choice[];
  readonly promptTokens: number;
}

const MAX_SEED = Number.MAX_SAFE_INTEGER;

/** @throws {ApiError} 404 for another model, 400 `context_length_exceeded` and for ids that the vocabulary lacks. */
export function planRun(
  engine: Engine,
  request: CompletionRequest,
  prompts: readonly (readonly number[])[],
  signal: AbortSignal,
): CompletionRun {
  const biased = [...(request.settings.logitBias?.keys() ?? [])].find((id) => id >= engine.vocabSize);
  if (biased !== undefined) {
    throw invalid(`Expected token ids below ${engine.vocabSize} in logit_bias, got ${biased}.`, 'logit_bias');
  }
  const { seed } = request.settings;
  const choices = prompts.flatMap((promptIds, promptIndex) => {
    const maxTokens = roomFor(engine, promptIds.length, request);
    return Array.from({ length: request.n }, (_, choice): Choice => {
      const index = promptIndex * request.n + choice;
      // Each choice has its own seed, or n equal answers would come of it.
      const own = seed === undefined ? {} : { seed: wrapSeed(seed + choice) };
      return {
        index,
        promptIds,
        tokens: engine.generate(promptIds, { ...request.settings, ...own, maxTokens }, signal),
      };
    });
  });
  return { choices, promptTokens: prompts.reduce((sum, ids) => sum + ids.length, 0) };
}

/** @throws {ApiError} 404 */
export function expectModel(engine: Engine, model: string | undefined): void {
  if (model !== undefined && model !== engine.name) {
    throw invalid(`This server has no such model; it has ${engine.name}.`, 'model', 'model_not_found', 404);
  }
}

/**
 * Text that could not fit however well it is packed is refused before the tokenizer spends time on it.
 *
 * @throws {ApiError} 400 `context_length_exceeded`
 */
export function expectEncodable(engine: Engine, characters: number, param: string): void {
  if (characters > engine.contextLength * engine.longestToken) {
    throw invalid(
      `Expected a prompt of fewer than ${engine.contextLength} tokens, got ${characters} characters, which are more.`,
      param,
      'context_length_exceeded',
    );
  }
}

export function usageOf(promptTokens: number, completionTokens: number): Usage {
  return {
    prompt_tokens: promptTokens,
    completion_tokens: completionTokens,
    total_tokens: promptTokens + completionTokens,
  };
}

function roomFor(
  { contextLength }: Engine,
  promptTokens: number,
  { maxTokens, promptParam }: CompletionRequest,
): number {
  const room = contextLength - promptTokens;
  if (room < 1 || (maxTokens ?? 1) > room) {
    const asked = maxTokens === undefined ? '' : `, and ${maxTokens} were asked for behind it`;
    throw invalid(
      `The context holds ${contextLength} tokens; the prompt takes ${promptTokens}${asked}.`,
      promptParam,
      'context_length_exceeded',
    );
  }
  return maxTokens ?? room;
}

function wrapSeed(seed: number): number {
  return seed >= 0 ? seed % MAX_SEED : MAX_SEED + (seed % MAX_SEED);
}
