import type { GenerateOptions, LanguageModel } from '@int-flash/llm';
import type { EngineLimits } from '../runtime.js';
import type { Engine, EngineToken } from './engine.js';

/** A loaded model as the server sees it; disposing the engine disposes the model. */
export function llmEngine(model: LanguageModel, name: string, limits: EngineLimits = {}): Engine {
  const { contextLength = model.contextLength, speculate } = limits;
  const { tokenizer, generationConfig } = model;
  const { backend, attention, kvCacheDtype, kvKeyScales } = model.status();
  const { doSample, temperature, topP, topK, minP } = generationConfig;
  return {
    name,
    facts: {
      backend,
      attention,
      kvCacheDtype,
      kvKeyScales,
      eosToken: tokenizer.eosTokenId === undefined ? undefined : tokenizer.token(tokenizer.eosTokenId),
      sampling: {
        temperature: doSample === true ? (temperature ?? 1) : 0,
        topP: topP || 1,
        topK: topK ?? 0,
        minP: minP ?? 0,
      },
    },
    contextLength: Math.min(contextLength, model.contextLength),
    vocabSize: model.config.vocabSize,
    hasChatTemplate: tokenizer.chatTemplate !== undefined,
    longestToken: tokenizer.longestToken,
    encodeText: (text) => model.encode(text),
    encodeChat: (turns) => model.encode(turns),
    tokenText: (id) => {
      const bytes = tokenizer.tokenBytes(id);
      return { text: Buffer.from(bytes).toString('utf8'), bytes: [...bytes] };
    },
    isEnd: (id) => model.isEndToken(id),
    generate: (ids, settings, signal) => draw(model, ids, { ...settings, speculate, signal }),
    held: () => {
      const { sessions, kvCacheBytes } = model.status();
      return { sequences: sessions, kvCacheBytes };
    },
    cache: () => {
      const { pages, prefixes, preemptions } = model.status();
      const { pages: all, used: usedPages, kept: keptPages } = pages;
      return {
        pages: all,
        usedPages,
        keptPages,
        promptTokens: prefixes.asked,
        foundTokens: prefixes.found,
        preemptions,
      };
    },
    dispose: () => model.dispose(),
  };
}

async function* draw(
  model: LanguageModel,
  ids: readonly number[],
  options: GenerateOptions,
): AsyncGenerator<EngineToken, void> {
  const generation = model.generate(ids, options);
  for await (const token of generation) {
    const { stats } = generation; // there once the last token is drawn, which is the one at hand
    yield stats ? { ...token, finishReason: stats.finishReason } : token;
  }
}
