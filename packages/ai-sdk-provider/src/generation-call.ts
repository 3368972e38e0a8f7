import { type LanguageModelV3CallOptions, type SharedV3Warning, UnsupportedFunctionalityError } from '@ai-sdk/provider';
import type { ChatMessage, GenerateOptions, LanguageModel } from '@int-flash/llm';
import { checkOptions, readArguments, wrongType } from '@int-flash/ops';
import { isObject, type PromptMessage, readPrompt } from './prompt-message.js';

/** A call of the SDK as a call of `model.generate`. */
export interface GenerationCall {
  readonly promptIds: readonly number[];
  readonly options: GenerateOptions;
  readonly signal: AbortSignal | undefined;
  /** What the call asked for and does not get. */
  readonly warnings: SharedV3Warning[];
}

/** Options of `model.generate` that the SDK has no setting for; `providerOptions.intFlash` takes them. */
const OWN_OPTIONS = ['minP', 'repeatPenalty', 'logitBias', 'ignoreEos', 'attention', 'kvCacheDtype'] as const;

/**
 * @throws `UnsupportedFunctionalityError` for files and tool results in the prompt; {@link IntFlashError} `ERR_ARG_TYPE` for what is no
 *   prompt, `ERR_ARG_RANGE` for an option of `providerOptions.intFlash` that there is not, and as `model.encode`.
 */
export function generationCall(model: LanguageModel, given: LanguageModelV3CallOptions): GenerationCall {
  const { messages, maxOutputTokens, signal, options, warnings } = readArguments(() => readCall(given));
  const promptIds = model.encode(promptOf(model, messages));
  const room = Math.max(model.config.maxPositions - promptIds.length, 1);
  return { promptIds, options: { ...options, maxTokens: maxOutputTokens ?? room }, signal, warnings };
}

/** Reads everything once. */
function readCall(given: unknown) {
  if (!isObject(given)) throw wrongType('the options of a call to be an object', given);
  const call = given as unknown as LanguageModelV3CallOptions;
  const { prompt, providerOptions, maxOutputTokens, abortSignal, tools, responseFormat } = call;
  const { temperature, topP, topK, presencePenalty, frequencyPenalty, seed, stopSequences } = call;
  const own = checkOptions(providerOptions?.intFlash, OWN_OPTIONS, 'providerOptions.intFlash') as GenerateOptions;
  return {
    messages: readPrompt(prompt),
    maxOutputTokens,
    signal: abortSignal,
    options: { ...own, temperature, topP, topK, presencePenalty, frequencyPenalty, seed, stop: stopSequences },
    warnings: warningsOf(tools, responseFormat),
  };
}

function warningsOf(
  tools: LanguageModelV3CallOptions['tools'],
  responseFormat: LanguageModelV3CallOptions['responseFormat'],
): SharedV3Warning[] {
  const warnings: SharedV3Warning[] = [];
  if (tools && tools.length > 0) warnings.push({ type: 'unsupported', feature: 'tools' });
  if (responseFormat?.type === 'json') {
    warnings.push({
      type: 'unsupported',
      feature: 'responseFormat',
      details: 'The answer is free text; nothing forces JSON.',
    });
  }
  return warnings;
}

function promptOf(model: LanguageModel, prompt: readonly PromptMessage[]): string | ChatMessage[] {
  const messages = prompt.map((message): ChatMessage => ({ role: message.role, content: textOf(message) }));
  // Without a chat format the only conversation that can be told is none.
  const isPlain = model.tokenizer.chatTemplate === undefined && messages.length === 1;
  return isPlain ? messages[0]!.content : messages;
}

function textOf({ role, parts }: PromptMessage): string {
  return parts
    .map(({ type, text }) => {
      if (type === 'text') return text;
      if (type === 'reasoning') return ''; // of an earlier answer; chat formats leave it out
      throw new UnsupportedFunctionalityError({ functionality: `${type} in a message of role ${role}` });
    })
    .join('');
}
