import { wrongType } from '@int-flash/ops';

/** A message of the SDK's prompt, read once and judged: what is said in it is text. */
export interface PromptMessage {
  readonly role: string;
  readonly parts: readonly PromptPart[];
}

export interface PromptPart {
  readonly type: string;
  /** Of a part of type `text`; else empty. */
  readonly text: string;
}

/** @throws {IntFlashError} `ERR_ARG_TYPE`, and what a getter of the caller's throws. */
export function readPrompt(prompt: unknown): PromptMessage[] {
  if (!Array.isArray(prompt)) throw wrongType('the prompt to be an array of messages', prompt);
  return Array.from(prompt, (message, i) => readMessage(message, `prompt[${i}]`)); // a hole is undefined here
}

function readMessage(message: unknown, name: string): PromptMessage {
  if (!isObject(message)) throw wrongType(`${name} to be a message`, message);
  const { role, content } = message;
  if (typeof role !== 'string') throw wrongType(`${name}.role to be a string`, role);
  if (typeof content === 'string') return { role, parts: [{ type: 'text', text: content }] };
  if (!Array.isArray(content)) throw wrongType(`${name}.content to be a string or an array of parts`, content);
  return { role, parts: Array.from(content, (part, i) => readPart(part, `${name}.content[${i}]`)) };
}

function readPart(part: unknown, name: string): PromptPart {
  if (!isObject(part)) throw wrongType(`${name} to be a part of a message`, part);
  const { type, text } = part;
  if (typeof type !== 'string') throw wrongType(`${name}.type to be a string`, type);
  if (type !== 'text') return { type, text: '' };
  if (typeof text !== 'string') throw wrongType(`${name}.text to be a string`, text);
  return { type, text };
}

export function isObject(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null;
}
