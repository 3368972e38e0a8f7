import { fileURLToPath } from 'node:url';
import type { ErrorCode } from '@int-flash/ops';
import { IntFlashError } from '@int-flash/ops';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type LanguageModel, loadModel, renderChatTemplate } from '../src/index.js';

const folder = fileURLToPath(new URL('../../../models/int-flash-demo/', import.meta.url));

let model: LanguageModel;
beforeAll(async () => {
  model = await loadModel(folder);
}, 120_000);
afterAll(() => model.dispose());

const revoked = (target: object) => {
  const { proxy, revoke } = Proxy.revocable(target, {});
  revoke();
  return proxy;
};
const fail = () => {
  throw new Error('boom');
};
const throwing = (target: object = {}) =>
  new Proxy(target, { get: fail, has: fail, ownKeys: fail, getPrototypeOf: fail, getOwnPropertyDescriptor: fail });
const lengthened = (first: unknown) => Object.assign([first], { length: 2 ** 32 - 1 });

/** What `call` throws or rejects with, which must come within a second. */
async function refusal(call: () => unknown, code: ErrorCode = 'ERR_ARG_TYPE'): Promise<string> {
  const before = performance.now();
  let error: unknown;
  try {
    await call();
  } catch (caught) {
    error = caught;
  }
  expect(error).toBeInstanceOf(IntFlashError);
  expect((error as IntFlashError).code).toBe(code);
  expect(performance.now() - before).toBeLessThan(1000);
  return (error as IntFlashError).message;
}

describe('messages', () => {
  const render =
    (messages: unknown, template = '{{ messages | length }}') =>
    () =>
      renderChatTemplate(template, { messages: messages as never });

  it('have no holes', async () => {
    expect(await refusal(render(new Array(3)))).toBe('Expected messages[0] to be an object, got undefined');
    const second = [{ role: 'user', content: 'Hi' }];
    second[2] = { role: 'user', content: 'Hi' };
    expect(await refusal(render(second))).toBe('Expected messages[1] to be an object, got undefined');
    expect(await refusal(() => model.generate(new Array(3)))).toContain('messages[0]');
  });

  it('are 10,000 at most, which is seen at once', async () => {
    const expected = (count: number) => `Expected at most 10000 messages, got ${count}`;
    const message = { role: 'user', content: '' };
    expect(await refusal(render(new Array(3e8)), 'ERR_TEMPLATE_LIMIT')).toBe(expected(3e8));
    expect(await refusal(render(lengthened(message)), 'ERR_TEMPLATE_LIMIT')).toBe(expected(2 ** 32 - 1));
    expect(await refusal(render(new Array(10_001).fill(message)), 'ERR_TEMPLATE_LIMIT')).toBe(expected(10_001));
    expect(render(new Array(10_000).fill(message))()).toBe('10000');
    expect(await refusal(() => model.generate(lengthened(message) as never), 'ERR_TEMPLATE_LIMIT')).toContain(
      'messages',
    );
  });

  it('and variables are read once, and holes in lists of variables are none of JSON', async () => {
    let reads = 0;
    const message = {
      role: 'user',
      get content() {
        return `read ${++reads}`;
      },
    };
    expect(render([message], '{{ messages[0].content }}')()).toBe('read 1');
    const variables = { list: new Array(3e8) };
    expect(await refusal(() => renderChatTemplate('', { messages: [], variables }))).toContain('variables');
  });

  it('are named where they, not the template, are too long', async () => {
    const long = [{ role: 'user', content: 'x'.repeat(2_000_000) }];
    const expected = 'Expected messages of at most 1048576 characters together, got 2000000';
    expect(await refusal(render(long, '{{ messages[0].content }}'), 'ERR_TEMPLATE_LIMIT')).toBe(expected);
    expect(await refusal(() => model.encode(long), 'ERR_TEMPLATE_LIMIT')).toBe(expected);
    expect(render(long, 'x')()).toBe('x');
  });
});

describe('values that throw when they are read', () => {
  const getter = (name: string) => Object.defineProperty({}, name, { get: fail, enumerable: true });
  const fakeSignal = Object.create(AbortSignal.prototype);
  const ids = [1, 2, 3, 4];

  it.each<[string, unknown]>([
    ['a proxy', throwing()],
    ['a proxy of an array', throwing([])],
    ['a revoked proxy', revoked({})],
    ['a revoked proxy of an array', revoked([])],
    ['an array of a proxy', [throwing()]],
    ['an array of a revoked proxy', [revoked({})]],
    ['a role that throws', [getter('role')]],
    ['an element that throws', Object.defineProperty([5], 0, { get: fail })],
    ['an object whose tag throws', getter(Symbol.toStringTag as never)],
  ])('prompt and ids: %s', async (_, value) => {
    await refusal(() => model.generate(value as never));
    await refusal(() => model.encode(value as never));
    await refusal(() => model.logits(value as never));
    await expect(model.perplexity(value as never)).rejects.toBeInstanceOf(IntFlashError);
    await refusal(() => model.tokenizer.encode(value as never));
    const { tokenizer } = model;
    expect(() => tokenizer.token(value as never)).toThrow(IntFlashError);
  });

  it.each<[string, unknown]>([
    ['a proxy', throwing()],
    ['a revoked proxy', revoked({})],
    ['a getter', getter('signal')],
    ['a signal that is none', { signal: fakeSignal }],
    ['a signal that is a proxy', { signal: throwing() }],
    ['a signal that is revoked', { signal: revoked({}) }],
  ])('options: %s', async (_, options) => {
    await refusal(() => model.generate('Hi', options as never));
    await refusal(() => model.logits(ids, options as never));
    await refusal(() => model.perplexity(ids, options as never));
  });

  it.each<[string, unknown]>([
    ['stop', throwing([])],
    ['stop', revoked([])],
    ['stop', [revoked({})]],
    ['stop', new Array(3)],
    ['logitBias', throwing()],
    ['logitBias', revoked({})],
    ['logitBias', getter('5')],
    ['logitBias', Object.create(Map.prototype)],
    ['temperature', throwing()],
    ['attention', revoked({})],
  ])('generate’s %s', async (name, value) => {
    await refusal(() => model.generate('Hi', { [name]: value }));
  });

  it('the window of a perplexity, which is read once', async () => {
    await refusal(() => model.perplexity(ids, getter('window')));
    await refusal(() => model.perplexity(ids, { onProgress: revoked({}) as never }));
    const options = { reads: 0 };
    const once = Object.defineProperty({}, 'window', { get: () => 2 + options.reads++, enumerable: true });
    expect((await model.perplexity(ids, once)).predicted).toBe(2);
    expect(options.reads).toBe(1);
  });

  it('options of loading', async () => {
    await refusal(() => loadModel(folder, throwing()));
    await refusal(() => loadModel(folder, revoked({})));
    await refusal(() => loadModel(folder, { loadSignal: fakeSignal }));
    await refusal(() => loadModel(folder, getter('threads')));
  });

  it('options and ids of a tokenizer', async () => {
    const { tokenizer } = model;
    await refusal(() => tokenizer.encode('Hi', throwing()));
    await refusal(() => tokenizer.decode(throwing([]) as never));
    await refusal(() => tokenizer.decode(revoked([]) as never));
    await refusal(() => tokenizer.decode([1], throwing()));
    await refusal(() => tokenizer.createDetokenizer(throwing()));
  });

  it('the input of a template', async () => {
    await refusal(() => renderChatTemplate('', throwing() as never));
    await refusal(() => renderChatTemplate('', getter('messages') as never));
    await refusal(() => renderChatTemplate('', { messages: revoked([]) as never }));
    await refusal(() => renderChatTemplate('', { messages: [], variables: { x: throwing() } }));
    await refusal(() => renderChatTemplate(revoked({}) as never, { messages: [] }));
  });
});

describe('token ids', () => {
  it('are judged one by one up to the first that is none, whatever the length says', async () => {
    await refusal(() => model.generate(lengthened(5) as never), 'ERR_ARG_RANGE');
    await refusal(() => model.encode(lengthened(5) as never));
    await refusal(() => model.perplexity(lengthened(5) as never));
    await refusal(() => model.tokenizer.decode(lengthened(5) as never), 'ERR_ARG_RANGE');
    await refusal(() => model.tokenizer.decode(new Array(3)), 'ERR_ARG_RANGE');
    await refusal(() => model.tokenizer.token('length' as never), 'ERR_ARG_RANGE');
    expect(model.encode([5, 6])).toEqual([5, 6]);
    expect(model.encode([])).toEqual([]);
  });
});
