import { z } from 'zod';
import { invalid } from './api-error.js';
import type { ChatTurn, EngineSettings } from './engine.js';
import { complaintOf } from './request-complaint.js';

const MAX_CHOICES = 8;
const MAX_MESSAGES = 2048;
const MAX_BIASES = 300;
const MAX_STOPS = 4;
const MAX_STOP_LENGTH = 128;

/** What both kinds of completion have in common, with the API's names turned into ours. */
export interface CompletionRequest {
  readonly model: string | undefined;
  /** What holds the prompt, for refusals to name. */
  readonly promptParam: 'messages' | 'prompt';
  readonly stream: boolean;
  readonly includeUsage: boolean;
  readonly n: number;
  /** Undefined: as many as the context has room for. */
  readonly maxTokens: number | undefined;
  readonly settings: Omit<EngineSettings, 'maxTokens'>;
}

export interface ChatRequest extends CompletionRequest {
  readonly turns: readonly ChatTurn[];
}

export interface TextRequest extends CompletionRequest {
  readonly prompts: readonly (string | readonly number[])[];
}

const count = z.int().min(1).max(1e9);
const stop = z.string().min(1).max(MAX_STOP_LENGTH);
const nothing = z.null().optional();
const NO_TOOLS = 'Expected no tools: this server calls none';

/** Judged before z.record, which leaves out a `__proto__` without a word. */
const tokenIds = z.unknown().check(({ value, issues }) => {
  const other = Object.keys(value ?? {}).find((name) => !/^\d{1,10}$/.test(name));
  if (other === undefined) return;
  const message = 'Expected the names in logit_bias to be token ids.';
  issues.push({ code: 'custom', message, path: [other], input: value });
});

/** Fields of both; those of the second part change nothing that this server does, and clients send them. */
const SHARED = {
  model: z.string().min(1).max(256).nullish(),
  stream: z.boolean().nullish(),
  stream_options: z
    .strictObject({ include_usage: z.boolean().nullish(), include_obfuscation: z.boolean().nullish() })
    .nullish(),
  n: z.int().min(1).max(MAX_CHOICES).nullish(),
  max_tokens: count.nullish(),
  temperature: z.number().min(0).max(2).nullish(),
  top_p: z.number().gt(0).max(1).nullish(),
  presence_penalty: z.number().min(-2).max(2).nullish(),
  frequency_penalty: z.number().min(-2).max(2).nullish(),
  logit_bias: tokenIds.pipe(z.record(z.string(), z.number().min(-100).max(100))).nullish(),
  seed: z.int().nullish(),
  stop: z.union([stop, z.array(stop).max(MAX_STOPS)]).nullish(),
  top_k: z.int().min(0).max(1e9).nullish(),
  min_p: z.number().min(0).max(1).nullish(),
  repetition_penalty: z.number().min(0.01).max(100).nullish(),
  ignore_eos: z.boolean().nullish(),

  user: z.string().nullish(),
  metadata: z.record(z.string(), z.unknown()).nullish(),
  store: z.boolean().nullish(),
  service_tier: z.string().nullish(),
  safety_identifier: z.string().nullish(),
  prompt_cache_key: z.string().nullish(),
};

const text = z.strictObject({ type: z.literal('text'), text: z.string() });
const content = z.union([z.string(), z.array(text).min(1)]);
const message = z.discriminatedUnion('role', [
  z.strictObject({ role: z.enum(['system', 'developer', 'user']), content, name: z.string().nullish() }),
  z.strictObject({
    role: z.literal('assistant'),
    content: content.nullish(),
    name: z.string().nullish(),
    refusal: nothing,
    annotations: z.array(z.unknown()).max(0).nullish(),
    audio: nothing,
    function_call: nothing,
    tool_calls: z.array(z.unknown()).max(0).nullish(),
    reasoning_content: z.string().nullish(),
  }),
]);

const CHAT = z.strictObject({
  ...SHARED,
  messages: z.array(message).min(1).max(MAX_MESSAGES),
  max_completion_tokens: count.nullish(),
  logprobs: z.boolean().nullish(),
  top_logprobs: z.int().min(0).max(20).nullish(),
  response_format: z.strictObject({ type: z.literal('text') }).nullish(),
  modalities: z.array(z.literal('text')).nullish(),
  tools: z.array(z.unknown()).max(0, NO_TOOLS).nullish(),
  tool_choice: z.enum(['none', 'auto']).nullish(),
  parallel_tool_calls: z.boolean().nullish(),
});

const ids = z.array(z.int().min(0)).min(1);
const TEXT = z.strictObject({
  ...SHARED,
  prompt: z.union([z.string(), ids, z.array(z.string()).min(1).max(MAX_CHOICES), z.array(ids).min(1).max(MAX_CHOICES)]),
  logprobs: z.int().min(0).max(20).nullish(),
  best_of: z.int().min(1).max(MAX_CHOICES).nullish(),
  echo: z.literal(false).nullish(),
  suffix: z.literal('').nullish(),
});

/** @throws {ApiError} 400 that names the parameter. */
export function judgeChatRequest(body: unknown): ChatRequest {
  const given = judge(CHAT, body);
  if (given.top_logprobs != null && given.logprobs !== true) {
    throw invalid('Expected logprobs to be true with top_logprobs.', 'top_logprobs');
  }
  return {
    ...shared(given, given.logprobs === true ? (given.top_logprobs ?? 0) : undefined),
    promptParam: 'messages',
    maxTokens: given.max_completion_tokens ?? given.max_tokens ?? undefined,
    turns: given.messages.map(({ role, content: said }) => ({
      role: role === 'developer' ? 'system' : role,
      content: typeof said === 'string' ? said : (said ?? []).map((part) => part.text).join(''),
    })),
  };
}

const DEFAULT_TEXT_TOKENS = 16; // the API's own default for plain completions

/** @throws {ApiError} 400 that names the parameter. */
export function judgeTextRequest(body: unknown): TextRequest {
  const given = judge(TEXT, body);
  const prompts = listPrompts(given.prompt);
  const request = shared(given, given.logprobs ?? undefined);
  if (given.best_of != null && given.best_of !== request.n) {
    throw invalid('Expected best_of to equal n: this server draws no more than it returns.', 'best_of');
  }
  if (prompts.length * request.n > MAX_CHOICES) {
    throw invalid(`Expected at most ${MAX_CHOICES} completions of all prompts together.`, 'n');
  }
  return { ...request, promptParam: 'prompt', prompts, maxTokens: given.max_tokens ?? DEFAULT_TEXT_TOKENS };
}

function listPrompts(prompt: z.infer<typeof TEXT>['prompt']): (string | number[])[] {
  if (typeof prompt === 'string') return [prompt];
  return typeof prompt[0] === 'number' ? [prompt as number[]] : (prompt as (string | number[])[]);
}

type Shared = z.infer<z.ZodObject<typeof SHARED>>;

function shared(given: Shared, logprobs: number | undefined): Omit<CompletionRequest, 'maxTokens' | 'promptParam'> {
  if (given.stream_options != null && given.stream !== true) {
    throw invalid('Expected stream to be true with stream_options.', 'stream_options');
  }
  const biases = Object.entries(given.logit_bias ?? {});
  if (biases.length > MAX_BIASES) throw invalid(`Expected at most ${MAX_BIASES} biases.`, 'logit_bias');
  return {
    model: given.model ?? undefined,
    stream: given.stream ?? false,
    includeUsage: given.stream_options?.include_usage ?? false,
    n: given.n ?? 1,
    settings: {
      temperature: given.temperature ?? undefined,
      topK: given.top_k ?? undefined,
      topP: given.top_p ?? undefined,
      minP: given.min_p ?? undefined,
      repeatPenalty: given.repetition_penalty ?? undefined,
      presencePenalty: given.presence_penalty ?? undefined,
      frequencyPenalty: given.frequency_penalty ?? undefined,
      logitBias: biases.length > 0 ? new Map(biases.map(([id, bias]) => [Number(id), bias])) : undefined,
      seed: given.seed ?? undefined,
      stop: typeof given.stop === 'string' ? [given.stop] : (given.stop ?? undefined),
      ignoreEos: given.ignore_eos ?? undefined,
      logprobs,
    },
  };
}

function judge<T extends z.ZodType>(schema: T, body: unknown): z.infer<T> {
  const result = schema.safeParse(body);
  if (result.success) return result.data;
  const { message, param, isUnknown } = complaintOf(result.error);
  throw invalid(message, param, isUnknown ? 'unknown_parameter' : undefined);
}
