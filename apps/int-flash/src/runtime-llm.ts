import { basename } from 'node:path';
import { BACKEND_VARIABLE, type Status, status } from '@int-flash/attention';
import { supportedIsas } from '@int-flash/kernels-cpu';
import {
  type LanguageModel,
  loadModel,
  loadRandomModel,
  type ModelConfig,
  openModel,
  quantizeCheckpoint,
} from '@int-flash/llm';
import { IntFlashError } from '@int-flash/ops';
import { timeGeneration } from './bench/time-generation.js';
import { describeModel, modelFacts } from './describe-model.js';
import { countSequences, sequenceBytes } from './experiments/count-sequences.js';
import { reproduce, reproduceKvCache } from './experiments/reproduction.js';
import type { BackendReport, GenerationEvent, LoadSettings, Model, ModelFacts, Runtime } from './runtime.js';
import { llmEngine } from './serve/llm-engine.js';

/** What `status` reads, and throws for where it cannot. */
const VARIABLES = [BACKEND_VARIABLE, 'INT_FLASH_THREADS'];

/** The commands' view of the library. */
export const llmRuntime: Runtime = {
  loadModel: async (folder, settings) => {
    const facts = await readFacts(folder);
    return adapt(await load(folder, settings), facts, settings);
  },
  loadEngine: async (folder, settings, limits) => llmEngine(await load(folder, settings), basename(folder), limits),
  loadRandomModel: async (name, config, settings) => {
    const { onProgress, signal, ...options } = settings;
    const model = await loadRandomModel(config, { ...options, onLoadProgress: onProgress, loadSignal: signal });
    return adapt(model, randomFacts(name, model.config), settings);
  },
  describeModel,
  describeBackends: async (): Promise<BackendReport> => {
    const { backends, chosen, why, faults } = statusDespiteVariables();
    const auto = faults.length > 0 ? { name: null, why: `${faults.join('; ')}.` } : { name: chosen ?? null, why };
    return { backends, auto, supportedIsas: supportedIsas() };
  },
  reproduce: (part, settings, onProgress) =>
    part === 'all' ? reproduce(llmRuntime, settings, onProgress) : reproduceKvCache(llmRuntime, settings, onProgress),
  quantize: (from, to, { onProgress, ...settings }) =>
    quantizeCheckpoint(from, to, {
      ...settings,
      onProgress: ({ loadedBytes, totalBytes }) => onProgress(loadedBytes / totalBytes),
    }),
};

/** What the backends say where variables make no sense: those are set aside for as long as it takes, and what is wrong with each is told. */
function statusDespiteVariables(): Status & { readonly faults: readonly string[] } {
  const faults: string[] = [];
  const aside: Record<string, string> = {};
  try {
    for (;;) {
      try {
        return { ...status(), faults };
      } catch (error) {
        const name = VARIABLES.find((variable) => process.env[variable] && messageOf(error).includes(variable));
        if (name === undefined) throw error;
        faults.push(messageOf(error));
        aside[name] = process.env[name]!;
        delete process.env[name];
      }
    }
  } finally {
    Object.assign(process.env, aside);
  }
}

function messageOf(error: unknown): string {
  return IntFlashError.isInstance(error) ? error.message : '';
}

function load(folder: string, { onProgress, signal, ...options }: LoadSettings): Promise<LanguageModel> {
  return loadModel(folder, { ...options, onLoadProgress: onProgress, loadSignal: signal });
}

async function readFacts(path: string): Promise<ModelFacts> {
  const { weights } = await openModel(path);
  try {
    return modelFacts(weights);
  } finally {
    await weights.close();
  }
}

function adapt(model: LanguageModel, facts: ModelFacts, { backend }: LoadSettings): Model {
  const { attention, kvCacheDtype, kvKeyScales } = model.status();
  return {
    facts,
    backend: model.status().backend,
    whyBackend: backend === 'auto' ? status().why : 'Asked for with --backend.',
    attention,
    kvCacheDtype,
    kvKeyScales,
    hasChatTemplate: model.tokenizer.chatTemplate !== undefined,
    encode: (prompt) => model.encode(prompt),
    async *generate(prompt, settings, signal): AsyncGenerator<GenerationEvent> {
      const generation = model.generate(prompt, { ...settings, signal });
      for await (const { text, tokenId } of generation) yield { type: 'text', text, tokenId };
      const { finishReason, seed } = generation.stats!; // there is one after the last token
      yield { type: 'finish', reason: finishReason, seed };
    },
    logits: (ids, arithmetic, signal) => model.logits(ids, { ...arithmetic, signal }),
    perplexity: async (text, window, signal, onProgress) => {
      const ids = model.tokenizer.encode(text, { addSpecialTokens: false });
      const { nats: _, ...result } = await model.perplexity(ids, { window, signal, onProgress });
      return result;
    },
    countSequences: (signal, filling) => countSequences(model, signal, filling),
    sequenceBytes: (tokens) => sequenceBytes(model, tokens),
    timeGeneration: (request, signal) => timeGeneration(model, request, signal),
    kvCacheBytes: () => model.status().kvCacheBytes,
    dispose: () => model.dispose(),
  };
}

/** What the files of a random model would say. */
function randomFacts(name: string, config: ModelConfig): ModelFacts {
  const { hiddenSize, heads, kvHeads, headDim, intermediateSize, layers, vocabSize } = config;
  const linear = layers * hiddenSize * (2 * (heads + kvHeads) * headDim + 3 * intermediateSize);
  const embedding = vocabSize * hiddenSize * (config.tiedEmbeddings ? 1 : 2);
  return {
    folder: '',
    name,
    architecture: config.architecture,
    parameters: linear + embedding,
    bytes: linear + 4 * embedding, // INT8, and float32 for what is looked up and for the logits
    weights: 'int8, random',
    contextLength: config.maxPositions,
    vocabularySize: vocabSize,
  };
}
