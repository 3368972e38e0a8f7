import { fileURLToPath } from 'node:url';
import { type GeneratedToken, type LanguageModel, loadModel } from '@int-flash/llm';
import { generateText, streamText } from 'ai';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { intFlash } from '../src/index.js';

const folder = fileURLToPath(new URL('../../../models/int-flash-demo/', import.meta.url));
const GREEDY = { prompt: 'Hello! Who are you?', temperature: 0 } as const;

const fail = () => {
  throw new Error('mine');
};
const { proxy: revoked, revoke } = Proxy.revocable({}, {});
revoke();

let model: LanguageModel;

beforeAll(async () => {
  model = await loadModel(folder);
}, 120_000);

afterAll(async () => {
  expect(model.status()).toMatchObject({ sessions: 0, kvCacheBytes: 0 });
  await model.dispose();
});

/** What the model itself answers to the same question. */
async function direct(maxTokens: number): Promise<string> {
  const messages = [{ role: 'user', content: GREEDY.prompt }];
  return model.generate(messages, { temperature: 0, maxTokens }).text();
}

async function firstToken(): Promise<GeneratedToken> {
  const generation = model.generate([{ role: 'user', content: GREEDY.prompt }], { temperature: 0, maxTokens: 1 });
  for await (const token of generation) return token;
  throw new Error('expected a token');
}

describe('intFlash', () => {
  it.each<[string, unknown]>([
    ['nothing', undefined],
    ['an empty object', {}],
    ['the name of one', 'gpt'],
    ['a revoked proxy', revoked],
    ['what throws when read', Object.defineProperty({}, 'encode', { get: fail })],
    ['what only generates', { encode: () => [], generate: () => {} }],
  ])('does not take %s for a model', (_name, given) => {
    expect(() => intFlash(given as never)).toThrowError(expect.objectContaining({ code: 'ERR_ARG_TYPE' }));
  });

  it('takes a name that is a string, and settings that can be read', () => {
    const wrong = { code: 'ERR_ARG_TYPE', message: 'Expected modelId to be a string, got 5' };
    expect(() => intFlash(model, { modelId: 5 as never })).toThrowError(expect.objectContaining(wrong));
    for (const settings of [revoked, Object.defineProperty({}, 'modelId', { get: fail, enumerable: true })])
      expect(() => intFlash(model, settings)).toThrowError(expect.objectContaining({ code: 'ERR_ARG_TYPE' }));
  });
});

describe('generateText', () => {
  it('answers as the model does, with usage and reason', async () => {
    const result = await generateText({ model: intFlash(model, { modelId: 'demo' }), ...GREEDY });
    expect(result.text).toBe(await direct(900));
    expect(result.finishReason).toBe('stop');
    expect(result.usage.inputTokens).toBe(model.encode([{ role: 'user', content: GREEDY.prompt }]).length);
    expect(result.usage.outputTokens).toBeGreaterThan(2);
    expect(result.response.modelId).toBe('demo');
    expect(result.warnings).toEqual([]);
  });

  it('obeys the limit, stop sequences, seed and system message', async () => {
    const of = intFlash(model);
    const cut = await generateText({ model: of, ...GREEDY, maxOutputTokens: 3 });
    expect(cut.finishReason).toBe('length');
    expect(cut.usage.outputTokens).toBe(3);
    const whole = await direct(900);
    const stop = whole.slice(4, 8);
    const stopped = await generateText({ model: of, ...GREEDY, stopSequences: [stop] });
    expect(stopped.text).toBe(whole.slice(0, whole.indexOf(stop)));
    const draw = async (seed: number) =>
      (
        await generateText({
          model: of,
          system: 'Tell stories.',
          prompt: 'A king.',
          seed,
          temperature: 1.5,
          maxOutputTokens: 12,
        })
      ).text;
    expect(await draw(1)).toBe(await draw(1));
    expect(await draw(1)).not.toBe(await draw(2));
  });

  it('takes options of its own, and refuses ones it does not know', async () => {
    const { tokenId: first } = await firstToken();
    const banned = await generateText({
      model: intFlash(model),
      ...GREEDY,
      maxOutputTokens: 4,
      providerOptions: { intFlash: { logitBias: { [first]: -100 }, ignoreEos: true } },
    });
    expect(banned.text).not.toBe(await direct(4));
    const misspelled = generateText({ model: intFlash(model), ...GREEDY, providerOptions: { intFlash: { minp: 1 } } });
    await expect(misspelled).rejects.toMatchObject({ code: 'ERR_ARG_RANGE' });
    expect(() => intFlash(model, { id: 'x' } as object)).toThrowError(
      expect.objectContaining({ code: 'ERR_ARG_RANGE' }),
    );
  });

  it('warns of what it cannot do and refuses what is no text', async () => {
    const of = intFlash(model);
    const call = {
      prompt: [{ role: 'user' as const, content: [{ type: 'text' as const, text: 'Hi' }] }],
      maxOutputTokens: 2,
    };
    const { warnings } = await of.doGenerate({
      ...call,
      responseFormat: { type: 'json' },
      tools: [{ type: 'function', name: 'f', inputSchema: {} }],
    });
    expect(warnings.map((warning) => ('feature' in warning ? warning.feature : ''))).toEqual([
      'tools',
      'responseFormat',
    ]);
    const image = { type: 'file' as const, mediaType: 'image/png', data: new Uint8Array(4) };
    await expect(of.doGenerate({ ...call, prompt: [{ role: 'user', content: [image] }] })).rejects.toMatchObject({
      name: 'AI_UnsupportedFunctionalityError',
    });
  });

  it.each<[string, unknown]>([
    ['no options', undefined],
    ['null', null],
    ['no prompt', {}],
    ['a text for a prompt', { prompt: 'Hi' }],
    ['null for a message', { prompt: [null] }],
    ['a hole for a message', { prompt: new Array(1) }],
    ['no role', { prompt: [{ content: 'Hi' }] }],
    ['no content', { prompt: [{ role: 'user' }] }],
    ['a number for content', { prompt: [{ role: 'user', content: 5 }] }],
    ['null for a part', { prompt: [{ role: 'user', content: [null] }] }],
    ['a hole for a part', { prompt: [{ role: 'user', content: new Array(1) }] }],
    ['a part without a type', { prompt: [{ role: 'user', content: [{ text: 'Hi' }] }] }],
    ['a number for a text', { prompt: [{ role: 'user', content: [{ type: 'text', text: 5 }] }] }],
    ['no text', { prompt: [{ role: 'user', content: [{ type: 'text' }] }] }],
    ['a prompt that throws when read', Object.defineProperty({}, 'prompt', { get: fail })],
    ['a message that throws when read', { prompt: [Object.defineProperty({}, 'content', { get: fail })] }],
    ['options that throw when read', { prompt: [], providerOptions: { intFlash: revoked } }],
  ])('refuses %s', async (_name, options) => {
    const of = intFlash(model);
    for (const answer of [() => of.doGenerate(options as never), () => of.doStream(options as never)])
      await expect(answer()).rejects.toMatchObject({ name: 'IntFlashError', code: 'ERR_ARG_TYPE' });
  });

  it('stops at an abort', async () => {
    const controller = new AbortController();
    const running = generateText({
      model: intFlash(model),
      ...GREEDY,
      abortSignal: controller.signal,
      maxRetries: 0,
      providerOptions: { intFlash: { ignoreEos: true } },
    });
    setTimeout(() => controller.abort(), 50);
    await expect(running).rejects.toMatchObject({ name: 'AbortError' });
    await expect.poll(() => model.status().sessions).toBe(0);
  });
});

describe('streamText', () => {
  it('streams the same text', async () => {
    const result = streamText({ model: intFlash(model), ...GREEDY });
    const pieces: string[] = [];
    for await (const piece of result.textStream) pieces.push(piece);
    expect(pieces.length).toBeGreaterThan(2);
    expect(pieces.join('')).toBe(await direct(900));
    expect(await result.finishReason).toBe('stop');
    expect((await result.usage).outputTokens).toBeGreaterThan(2);
  });

  it('has the parts of the specification in order', async () => {
    const { stream } = await intFlash(model).doStream({
      prompt: [{ role: 'user', content: [{ type: 'text', text: 'Hi' }] }],
      maxOutputTokens: 3,
    });
    const parts: { type: string }[] = [];
    for await (const part of stream) parts.push(part);
    const types = parts.map(({ type }) => type).filter((type, i, all) => type !== all[i - 1]);
    expect(types).toEqual(['stream-start', 'response-metadata', 'text-start', 'text-delta', 'text-end', 'finish']);
  });

  it('ends the computation when the stream is cancelled', async () => {
    const { stream } = await intFlash(model).doStream({
      prompt: [{ role: 'user', content: [{ type: 'text', text: 'Hi' }] }],
      providerOptions: { intFlash: { ignoreEos: true } },
    });
    const reader = stream.getReader();
    for (let i = 0; i < 5; i++) await reader.read();
    expect(model.status().sessions).toBe(1);
    await reader.cancel();
    expect(model.status().sessions).toBe(0);
  });

  it('answers several at once as one by one', async () => {
    const alone = await direct(12);
    const texts = await Promise.all(
      Array.from(
        { length: 6 },
        async () => (await generateText({ model: intFlash(model), ...GREEDY, maxOutputTokens: 12 })).text,
      ),
    );
    expect(new Set(texts)).toEqual(new Set([alone]));
  });
});
