import type {
  LanguageModelV3,
  LanguageModelV3CallOptions,
  LanguageModelV3FinishReason,
  LanguageModelV3GenerateResult,
  LanguageModelV3StreamPart,
  LanguageModelV3StreamResult,
  LanguageModelV3Usage,
} from '@ai-sdk/provider';
import type { FinishReason, Generation, LanguageModel } from '@int-flash/llm';
import { checkOptions, readArguments, wrongType } from '@int-flash/ops';
import { type GenerationCall, generationCall } from './generation-call.js';
import { isObject } from './prompt-message.js';

export interface IntFlashSettings {
  /** What results and telemetry call the model; `int-flash` by default. */
  readonly modelId?: string | undefined;
}

/**
 * A loaded model as the AI SDK's `LanguageModelV3`: `generateText({ model: intFlash(model), prompt })`.
 *
 * Runs in this process; calls under way at the same time share steps. The model stays the caller's, who disposes it.
 * Sampling beyond the SDK's own settings goes through `providerOptions.intFlash` (`GenerationCall`).
 * @throws {IntFlashError} `ERR_ARG_*`
 */
export function intFlash(model: LanguageModel, settings: IntFlashSettings = {}): LanguageModelV3 {
  if (!readArguments(() => isLanguageModel(model))) throw wrongType('a model as loadModel gives it', model);
  const { modelId = 'int-flash' } = readArguments(() => checkOptions(settings, ['modelId'], 'settings'));
  if (typeof modelId !== 'string') throw wrongType('modelId to be a string', modelId);
  return new IntFlashLanguageModel(model, modelId);
}

/** Not by its class: the ESM and the CommonJS build of @int-flash/llm have one each. */
function isLanguageModel(value: unknown): value is LanguageModel {
  if (!isObject(value)) return false;
  const { encode, generate, tokenizer, config } = value;
  return typeof encode === 'function' && typeof generate === 'function' && isObject(tokenizer) && isObject(config);
}

class IntFlashLanguageModel implements LanguageModelV3 {
  readonly specificationVersion = 'v3';
  readonly provider = 'int-flash';
  readonly supportedUrls = {}; // nothing is fetched
  readonly modelId: string;
  readonly #model: LanguageModel;

  constructor(model: LanguageModel, modelId: string) {
    this.#model = model;
    this.modelId = modelId;
  }

  /** @throws as {@link LanguageModel.generate}; `UnsupportedFunctionalityError` for content other than text. */
  async doGenerate(options: LanguageModelV3CallOptions): Promise<LanguageModelV3GenerateResult> {
    const { generation, call } = this.#start(options);
    const text = await generation.text();
    const { finishReason, usage } = summary(generation);
    return {
      content: [{ type: 'text', text }],
      finishReason,
      usage,
      request: { body: call.options },
      response: { modelId: this.modelId, timestamp: new Date() },
      warnings: call.warnings,
    };
  }

  /** Draws as fast as the stream is read; cancelling the stream ends the computation. */
  async doStream(options: LanguageModelV3CallOptions): Promise<LanguageModelV3StreamResult> {
    const { generation, call } = this.#start(options);
    const id = '0';
    const { modelId } = this;
    const stream = new ReadableStream<LanguageModelV3StreamPart>({
      start(controller) {
        controller.enqueue({ type: 'stream-start', warnings: call.warnings });
        controller.enqueue({ type: 'response-metadata', modelId, timestamp: new Date() });
        controller.enqueue({ type: 'text-start', id });
      },
      async pull(controller) {
        for (;;) {
          const next = await generation.next();
          if (next.done) break;
          if (next.value.text === '') continue; // part of a character or of a stop string
          controller.enqueue({ type: 'text-delta', id, delta: next.value.text });
          return;
        }
        controller.enqueue({ type: 'text-end', id });
        controller.enqueue({ type: 'finish', ...summary(generation) });
        controller.close();
      },
      async cancel() {
        await generation.return();
      },
    });
    return { stream, request: { body: call.options } };
  }

  #start(options: LanguageModelV3CallOptions): { generation: Generation; call: GenerationCall } {
    const call = generationCall(this.#model, options);
    return { call, generation: this.#model.generate(call.promptIds, { ...call.options, signal: call.signal }) };
  }
}

function summary({ stats }: Generation): { finishReason: LanguageModelV3FinishReason; usage: LanguageModelV3Usage } {
  const { promptTokens, newTokens, finishReason } = stats!; // there is one after the last token
  return { finishReason: finishReasonOf(finishReason), usage: usageOf(promptTokens, newTokens) };
}

function finishReasonOf(raw: FinishReason): LanguageModelV3FinishReason {
  return { unified: raw, raw };
}

function usageOf(promptTokens: number, newTokens: number): LanguageModelV3Usage {
  return {
    inputTokens: { total: promptTokens, noCache: promptTokens, cacheRead: undefined, cacheWrite: undefined },
    outputTokens: { total: newTokens, text: newTokens, reasoning: undefined },
  };
}
