import { Environment, parse, tokenize } from '@huggingface/jinja';
import { describe, IntFlashError, readArguments } from '@int-flash/ops';
import { MeteredInterpreter, over, TEMPLATE_LIMITS } from './metered-interpreter.js';
import { runWithDeadline } from './run-with-deadline.js';

export interface ChatMessage {
  readonly role: string;
  readonly content: string;
}

export interface ChatTemplateInput {
  readonly messages: readonly ChatMessage[];
  /** Open the assistant's turn at the end; default true. */
  readonly addGenerationPrompt?: boolean;
  /** Text of the model's tokens, e.g. `bosToken: '<s>'`. */
  readonly bosToken?: string;
  readonly eosToken?: string;
  /** Further variables of the template, e.g. `enable_thinking`; plain JSON values. */
  readonly variables?: Readonly<Record<string, unknown>>;
}

const MAX_TEMPLATE_LENGTH = 2 ** 17; // the longest of known models have about 20,000 characters
const MAX_INPUT_DEPTH = 64;
/** As many as a template's own lists may have. */
const MAX_MESSAGES = TEMPLATE_LIMITS.listLength;
// For parsing and rendering together. A thousand messages take 50 ms on an idle core, several times that on a busy one.
const DEADLINE_MS = 250;
const DEADLINE_MS_A_MESSAGE = 1;
const INPUT_KEYS = ['messages', 'addGenerationPrompt', 'bosToken', 'eosToken', 'variables'];
const RESERVED = new Set([
  'messages',
  'add_generation_prompt',
  'bos_token',
  'eos_token',
  'range',
  'raise_exception',
  'namespace',
]);

/**
 * Renders a model's chat template (Jinja).
 *
 * Templates come with models and are programs: this runs one with a step counter, limits on texts, lists and nesting
 * (`TEMPLATE_LIMITS`), no host objects in reach, and behind it all a deadline of 250 ms and 1 ms a message.
 * @throws {IntFlashError} `ERR_TEMPLATE` (does not parse or render, or refuses the messages with `raise_exception`),
 *   `ERR_TEMPLATE_LIMIT`, also for more than 10,000 messages; `ERR_ARG_TYPE` for messages and variables that are not plain values.
 */
export function renderChatTemplate(template: string, input: ChatTemplateInput): string {
  const { messages, variables } = readArguments(() => {
    if (typeof template !== 'string') {
      throw new IntFlashError('ERR_ARG_TYPE', `Expected the chat template to be a string, got ${describe(template)}`);
    }
    if (template.length > MAX_TEMPLATE_LENGTH) throw over('characters of its own', MAX_TEMPLATE_LENGTH);
    return judgeInput(input);
  });
  const deadline = DEADLINE_MS + DEADLINE_MS_A_MESSAGE * messages.length;
  try {
    return runWithDeadline(
      () => render(template, { ...variables, messages }),
      deadline,
      () => over('ms', deadline),
    );
  } catch (error) {
    throw blameMessages(asTemplateError(error), messages);
  }
}

function render(template: string, variables: Readonly<Record<string, unknown>>): string {
  const program = parse(tokenize(template, { lstrip_blocks: true, trim_blocks: true }));
  const environment = new Environment();
  for (const [name, value] of Object.entries({ ...CONSTANTS, ...variables })) environment.set(name, value);
  // The library declares `namespace` in every environment.
  const output = new MeteredInterpreter(environment, program).run(program).value;
  return typeof output === 'string' ? output : '';
}

/** What every template may use; functions see plain values only. */
const CONSTANTS: Readonly<Record<string, unknown>> = {
  true: true,
  false: false,
  none: null,
  True: true,
  False: false,
  None: null,
  raise_exception: (message: unknown) => {
    throw new IntFlashError(
      'ERR_TEMPLATE',
      `Expected messages that the chat template takes, got its refusal: ${shorten(message)}`,
    );
  },
  range: (...bounds: unknown[]) => range(bounds),
  strftime_now: (format: unknown) => formatDate(new Date(), String(format)),
};

function range(bounds: readonly unknown[]): number[] {
  const numbers = bounds.map((bound) => {
    if (typeof bound !== 'number' || !Number.isInteger(bound)) {
      throw new IntFlashError('ERR_TEMPLATE', `Expected range() of integers, got ${describe(bound)}`);
    }
    return bound;
  });
  const [start, stop, step = 1] = numbers.length === 1 ? [0, numbers[0]!] : (numbers as [number, number, number?]);
  if (numbers.length < 1 || numbers.length > 3 || step === 0) {
    throw new IntFlashError('ERR_TEMPLATE', 'Expected range() of one to three integers, the last not 0');
  }
  const length = Math.max(0, Math.ceil((stop - start) / step));
  if (length > TEMPLATE_LIMITS.listLength) throw over('items in a range', TEMPLATE_LIMITS.listLength);
  return Array.from({ length }, (_, i) => start + i * step);
}

/** The codes of strftime that chat templates use, in English whatever the machine's language. */
function formatDate(date: Date, format: string): string {
  const pad = (value: number) => String(value).padStart(2, '0');
  const month = (style: 'long' | 'short') => new Intl.DateTimeFormat('en-US', { month: style }).format(date);
  const codes: Readonly<Record<string, () => string>> = {
    Y: () => String(date.getFullYear()),
    m: () => pad(date.getMonth() + 1),
    d: () => pad(date.getDate()),
    b: () => month('short'),
    B: () => month('long'),
    H: () => pad(date.getHours()),
    M: () => pad(date.getMinutes()),
    S: () => pad(date.getSeconds()),
    '%': () => '%',
  };
  return format.slice(0, 256).replace(/%([YmdbBHMS%])/g, (_, code: string) => codes[code]!());
}

interface JudgedInput {
  readonly messages: readonly ChatMessage[];
  readonly variables: Readonly<Record<string, unknown>>;
}

/** Copies all of the input, so that nothing of the caller's is read twice. */
function judgeInput(input: unknown): JudgedInput {
  const given = plainObject(input, 'the chat template input');
  const unknown = Object.keys(given).find((key) => !INPUT_KEYS.includes(key));
  if (unknown !== undefined) {
    throw new IntFlashError('ERR_ARG_RANGE', `Expected only ${INPUT_KEYS.join(', ')}, got "${unknown.slice(0, 60)}"`);
  }
  const { messages, addGenerationPrompt = true, bosToken = '', eosToken = '', variables = {} } = given;
  const judgedMessages = judgeMessages(messages);
  const extra = plainObject(variables, 'variables');
  const reserved = Object.keys(extra).find((name) => RESERVED.has(name) || Object.hasOwn(CONSTANTS, name));
  if (reserved !== undefined) {
    throw new IntFlashError(
      'ERR_ARG_RANGE',
      `Expected variables of other names than the template's own, got "${reserved}"`,
    );
  }
  return {
    messages: judgedMessages,
    variables: {
      ...(plainCopy(extra, 'variables') as Record<string, unknown>),
      add_generation_prompt: plainCopy(addGenerationPrompt, 'addGenerationPrompt'),
      bos_token: plainCopy(bosToken, 'bosToken'),
      eos_token: plainCopy(eosToken, 'eosToken'),
    },
  };
}

/** One by one, up to the first that is none: an array's length says nothing about what it holds. */
function judgeMessages(messages: unknown): ChatMessage[] {
  if (!Array.isArray(messages)) {
    throw new IntFlashError('ERR_ARG_TYPE', `Expected messages to be an array, got ${describe(messages)}`);
  }
  const { length } = messages;
  if (length > MAX_MESSAGES) {
    throw new IntFlashError('ERR_TEMPLATE_LIMIT', `Expected at most ${MAX_MESSAGES} messages, got ${length}`);
  }
  return Array.from({ length }, (_, i) => {
    const message = plainCopy(plainObject(messages[i], `messages[${i}]`), 'messages', 1) as Record<string, unknown>;
    if (typeof message.role !== 'string' || typeof message.content !== 'string') {
      throw new IntFlashError('ERR_ARG_TYPE', `Expected messages[${i}] to have a role and a content, both strings`);
    }
    return message as unknown as ChatMessage;
  });
}

function plainObject(value: unknown, name: string): Record<string, unknown> {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw new IntFlashError('ERR_ARG_TYPE', `Expected ${name} to be an object, got ${describe(value)}`);
  }
  return value as Record<string, unknown>;
}

/** Copies JSON values; functions, class instances and cycles have no business in a template. */
function plainCopy(value: unknown, name: string, depth = 0): unknown {
  if (depth > MAX_INPUT_DEPTH) throw over(`levels in ${name}`, MAX_INPUT_DEPTH);
  if (value === null || typeof value === 'string' || typeof value === 'boolean') return value;
  if (typeof value === 'number' && Number.isFinite(value)) return value;
  if (Array.isArray(value)) {
    const copy: unknown[] = []; // not by `map`, which passes over holes
    for (let i = 0, { length } = value; i < length; i++) copy.push(plainCopy(value[i], name, depth + 1));
    return copy;
  }
  const prototype = typeof value === 'object' ? Object.getPrototypeOf(value) : undefined;
  if (prototype !== Object.prototype && prototype !== null) {
    throw new IntFlashError('ERR_ARG_TYPE', `Expected ${name} to hold plain JSON values, got ${describe(value)}`);
  }
  const entries = Object.entries(value as object).filter(([, entry]) => entry !== undefined);
  return Object.fromEntries(entries.map(([key, entry]) => [key, plainCopy(entry, name, depth + 1)]));
}

function asTemplateError(error: unknown): unknown {
  if (error instanceof IntFlashError) return error;
  // Deep nesting of the template's own syntax, or a text that no string can hold.
  if (error instanceof RangeError) {
    return new IntFlashError(
      'ERR_TEMPLATE_LIMIT',
      'Expected a template that fits in memory and stack, got one that does not',
      {
        cause: error,
      },
    );
  }
  const said = error instanceof Error ? error.message : error;
  return new IntFlashError('ERR_TEMPLATE', `Expected a chat template that renders, got an error: ${shorten(said)}`, {
    cause: error,
  });
}

/** A template that fits may still be given more text than fits: then the text is what is too long. */
function blameMessages(error: unknown, messages: readonly ChatMessage[]): unknown {
  if (!IntFlashError.isInstance(error) || error.code !== 'ERR_TEMPLATE_LIMIT') return error;
  const length = messages.reduce((sum, { content }) => sum + content.length, 0);
  if (length <= TEMPLATE_LIMITS.textLength) return error;
  return new IntFlashError(
    'ERR_TEMPLATE_LIMIT',
    `Expected messages of at most ${TEMPLATE_LIMITS.textLength} characters together, got ${length}`,
    { hint: 'Shorten the messages: the chat template writes all of them into one text.', cause: error },
  );
}

function shorten(message: unknown): string {
  return JSON.stringify(String(message).slice(0, 200));
}
