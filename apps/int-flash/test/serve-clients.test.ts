import { fileURLToPath } from 'node:url';
import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import { loadModel } from '@int-flash/llm';
import { generateText, streamText } from 'ai';
import OpenAI from 'openai';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Engine } from '../src/serve/engine.js';
import { llmEngine } from '../src/serve/llm-engine.js';
import { type Served, startServer } from './serve-harness.js';

const folder = fileURLToPath(new URL('../../../models/int-flash-demo/', import.meta.url));
const messages = [{ role: 'user' as const, content: 'Hello! Who are you?' }];
const KEY = 'secret';
const model = 'int-flash-demo';

let engine: Engine;
let served: Served;
let client: OpenAI;

beforeAll(async () => {
  engine = llmEngine(await loadModel(folder), model);
  served = await startServer(engine, { apiKey: KEY });
  client = new OpenAI({ baseURL: `${served.url}/v1`, apiKey: KEY, maxRetries: 0 });
}, 120_000);

afterAll(async () => {
  expect(engine.held()).toEqual({ sequences: 0, kvCacheBytes: 0 });
  await served.close();
  await engine.dispose();
});

describe('the official client', () => {
  it('lists models', async () => {
    expect((await client.models.list()).data.map(({ id }) => id)).toEqual([model]);
    expect((await client.models.retrieve(model)).owned_by).toBe('int-flash');
  });

  it('chats, whole and streamed, to the same text', async () => {
    const request = { model, messages, temperature: 0, max_completion_tokens: 24 };
    const whole = await client.chat.completions.create({ ...request, logprobs: true, top_logprobs: 2 });
    const [choice] = whole.choices;
    expect(choice!.message.content).toMatch(/\w+/);
    expect(whole.usage!.total_tokens).toBe(whole.usage!.prompt_tokens + whole.usage!.completion_tokens);
    const told = choice!.logprobs!.content!;
    expect(told.map(({ token }) => token).join('')).toBe(choice!.message.content);
    for (const { token, bytes, logprob, top_logprobs } of told) {
      expect(Buffer.from(bytes!).toString()).toBe(token);
      expect(top_logprobs[0]!.logprob).toBeGreaterThanOrEqual(logprob);
      expect(top_logprobs).toHaveLength(2);
    }
    let text = '';
    let reason: string | null = null;
    let tokens = 0;
    const stream = await client.chat.completions.create({
      ...request,
      stream: true,
      stream_options: { include_usage: true },
    });
    for await (const { choices, usage } of stream) {
      text += choices[0]?.delta.content ?? '';
      reason = choices[0]?.finish_reason ?? reason;
      tokens = usage?.completion_tokens ?? tokens;
    }
    expect([text, reason, tokens]).toEqual([
      choice!.message.content,
      choice!.finish_reason,
      whole.usage!.completion_tokens,
    ]);
  });

  it('draws n answers, other ones each, and the same for a seed', async () => {
    const draw = async () => {
      const { choices } = await client.chat.completions.create({
        model,
        messages,
        n: 3,
        seed: 5,
        temperature: 2,
        top_p: 1,
        max_tokens: 16,
      });
      return choices.map(({ message }) => message.content);
    };
    const first = await draw();
    expect(new Set(first).size).toBe(3);
    expect(await draw()).toEqual(first);
  });

  it('completes text', async () => {
    const request = { model, prompt: 'Once upon a time', temperature: 0, max_tokens: 8 };
    const whole = await client.completions.create({ ...request, logprobs: 1 });
    expect(whole.choices[0]!.logprobs!.tokens!.join('')).toBe(whole.choices[0]!.text);
    let text = '';
    for await (const { choices } of await client.completions.create({ ...request, stream: true }))
      text += choices[0]!.text;
    expect(text).toBe(whole.choices[0]!.text);
    const cut = await client.completions.create({ ...request, stop: [text.slice(4, 9)] });
    expect(cut.choices[0]).toMatchObject({ text: text.slice(0, 4), finish_reason: 'stop' });
    const banned = await client.completions.create({ ...request, logit_bias: { [String(firstToken(text))]: -100 } });
    expect(banned.choices[0]!.text.slice(0, 3)).not.toBe(text.slice(0, 3));
  });

  describe('log-probabilities with a stop string', () => {
    const request = { model, temperature: 0, max_tokens: 12 };
    const chatRequest = { ...request, messages, logprobs: true };
    const textRequest = { ...request, prompt: 'Once upon a time', logprobs: 1 };
    interface Answer {
      readonly text: string;
      readonly tokens: readonly string[];
    }
    const ways: Record<string, (stop?: string[]) => Promise<Answer>> = {
      chat: async (stop) => {
        const [choice] = (await client.chat.completions.create({ ...chatRequest, stop })).choices;
        return { text: choice!.message.content!, tokens: choice!.logprobs!.content!.map(({ token }) => token) };
      },
      'streamed chat': async (stop) => {
        const answer = { text: '', tokens: [] as string[] };
        for await (const { choices } of await client.chat.completions.create({ ...chatRequest, stop, stream: true })) {
          answer.text += choices[0]!.delta.content ?? '';
          answer.tokens.push(...(choices[0]!.logprobs?.content ?? []).map(({ token }) => token));
        }
        return answer;
      },
      text: async (stop) => {
        const [choice] = (await client.completions.create({ ...textRequest, stop })).choices;
        return { text: choice!.text, tokens: choice!.logprobs!.tokens! };
      },
      'streamed text': async (stop) => {
        const answer = { text: '', tokens: [] as string[] };
        for await (const { choices } of await client.completions.create({ ...textRequest, stop, stream: true })) {
          const { tokens = [], text_offset = [] } = choices[0]!.logprobs ?? {};
          for (const [i, token] of tokens.entries()) {
            expect(text_offset[i]).toBe(answer.tokens.join('').length);
            answer.tokens.push(token);
          }
          answer.text += choices[0]!.text;
        }
        return answer;
      },
    };

    it.each(Object.keys(ways))('are of the tokens whose text is returned: %s', async (way) => {
      const whole = await ways[way]!();
      const { text, tokens } = whole;
      expect(tokens.join('')).toBe(text);
      // A stop string that two tokens are needed for and a third may follow, in front of a token and within one.
      const third = tokens.findIndex((token, i) => i >= 2 && token.length >= 2);
      const start = tokens.slice(0, third).join('').length;
      for (const within of [0, 1]) {
        const from = start + within;
        const stop = text.slice(from, start + tokens[third]!.length + 1);
        expect(text.indexOf(stop)).toBe(from);
        expect(await ways[way]!([stop])).toEqual({
          text: text.slice(0, from),
          tokens: tokens.slice(0, third + within),
        });
      }
      // One that begins and never comes: all are told.
      expect(await ways[way]!([`${text.slice(start)}\0`])).toEqual(whole);
    });
  });

  function firstToken(text: string): number {
    return engine.encodeText(text).find((id) => text.startsWith(engine.tokenText(id).text))!;
  }

  it('throws its own kinds of errors', async () => {
    const create = (more: object) => client.chat.completions.create({ model, messages, ...more });
    await expect(create({ temperature: 3 })).rejects.toBeInstanceOf(OpenAI.BadRequestError);
    await expect(create({ model: 'gpt-7' })).rejects.toBeInstanceOf(OpenAI.NotFoundError);
    await expect(create({ max_tokens: 5000 })).rejects.toMatchObject({ code: 'context_length_exceeded' });
    const stranger = new OpenAI({ baseURL: `${served.url}/v1`, apiKey: 'other', maxRetries: 0 });
    await expect(stranger.models.list()).rejects.toBeInstanceOf(OpenAI.AuthenticationError);
  });

  it('stops the computation when it aborts', async () => {
    const stream = await client.chat.completions.create({
      model,
      messages,
      max_tokens: 900,
      stream: true,
      ...{ ignore_eos: true },
    });
    for await (const _ of stream) break; // hangs up
    await expect.poll(() => engine.held().sequences).toBe(0);
  });
});

describe('the AI SDK through its OpenAI-compatible provider', () => {
  const provider = () =>
    createOpenAICompatible({ name: 'int-flash', baseURL: `${served.url}/v1`, apiKey: KEY, includeUsage: true });

  it('generates', async () => {
    const { text, usage, finishReason } = await generateText({
      model: provider()(model),
      system: 'You are helpful.',
      prompt: 'Hello!',
      temperature: 0,
      maxOutputTokens: 40,
    });
    expect(text).toMatch(/\w+/);
    expect(finishReason).toBe('stop');
    expect(usage.outputTokens).toBeGreaterThan(0);
  });

  it('streams', async () => {
    const result = streamText({ model: provider()(model), prompt: 'Hello!', temperature: 0, maxOutputTokens: 5 });
    let text = '';
    for await (const piece of result.textStream) text += piece;
    expect(text).toMatch(/\w+/);
    expect(await result.finishReason).toBe('length');
    expect((await result.usage).outputTokens).toBe(5);
  });
});
