import {
  type LanguageModelV3CallOptions,
  type LanguageModelV3Message,
  type SharedV3Warning,
  UnsupportedFunctionalityError,
} from '@ai-sdk/provider';
import type { ChatMessage, GenerateOptions, LanguageModel } from '@int-flash/llm';
import { checkOptions } from '@int-flash/ops';

/** A call of the SDK as a call of `model.generate`. */
export interface GenerationCall {
  readonly promptIds: readonly number[];
  readonly options: GenerateOptions;
  /** What the call asked for and does not get. */
  readonly warnings: SharedV3Warning[];
}

/** Options of `model.generate` that the SDK has no setting for; `providerOptions.intFlash` takes them. */
const OWN_OPTIONS = ['minP', 'repeatPenalty', 'logitBias', 'ignoreEos', 'attention', 'kvCacheDtype'] as const;

/**
 * @throws `UnsupportedFunctionalityError` for files and tool results in the prompt; {@link IntFlashError} `ERR_ARG_RANGE` for an
 *   option of `providerOptions.intFlash` that there is not, and as `model.encode`.
 */
export function generationCall(model: LanguageModel, call: LanguageModelV3CallOptions): GenerationCall {
  const own = checkOptions(call.providerOptions?.intFlash, OWN_OPTIONS, 'providerOptions.intFlash');
  const promptIds = model.encode(promptOf(model, call.prompt));
  const room = Math.max(model.config.maxPositions - promptIds.length, 1);
  const { temperature, topP, topK, presencePenalty, frequencyPenalty, seed, stopSequences } = call;
  const options: GenerateOptions = {
    ...(own as GenerateOptions),
    maxTokens: call.maxOutputTokens ?? room,
    temperature,
    topP,
    topK,
    presencePenalty,
    frequencyPenalty,
    seed,
    stop: stopSequences,
  };
  return { promptIds, options, warnings: warningsOf(call) };
}

function warningsOf({ tools, responseFormat }: LanguageModelV3CallOptions): SharedV3Warning[] {
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

function promptOf(model: LanguageModel, prompt: readonly LanguageModelV3Message[]): string | ChatMessage[] {
  const messages = prompt.map(({ role, content }): ChatMessage => ({ role, content: textOf(role, content) }));
  // Without a chat format the only conversation that can be told is none.
  const isPlain = model.tokenizer.chatTemplate === undefined && messages.length === 1;
  return isPlain ? messages[0]!.content : messages;
}

function textOf(role: string, content: LanguageModelV3Message['content']): string {
  if (typeof content === 'string') return content;
  return content
    .map((part) => {
      if (part.type === 'text') return part.text;
      if (part.type === 'reasoning') return ''; // of an earlier answer; chat formats leave it out
      throw new UnsupportedFunctionalityError({ functionality: `${part.type} in a message of role ${role}` });
    })
    .join('');
}
