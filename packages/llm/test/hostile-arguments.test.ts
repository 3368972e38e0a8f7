import { fileURLToPath } from 'node:url';
import type { ErrorCode } from '@int-flash/ops';
import { IntFlashError } from '@int-flash/ops';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type LanguageModel, loadModel, renderChatTemplate } from '../src/index.js';
import { refusal } from './refusal.js';

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

/** As `refusal`, which must come within a second. */
async function promptRefusal(call: () => unknown, code?: ErrorCode): Promise<string> {
  const before = performance.now();
  const message = await refusal(call, code);
  expect(performance.now() - before).toBeLessThan(1000);
  return message;
}

describe('messages', () => {
  const render =
    (messages: unknown, template = '{{ messages | length }}') =>
    () =>
      renderChatTemplate(template, { messages: messages as never });

  it('have no holes', async () => {
    expect(await promptRefusal(render(new Array(3)))).toBe('Expected messages[0] to be an object, got undefined');
    const second = [{ role: 'user', content: 'Hi' }];
    second[2] = { role: 'user', content: 'Hi' };
    expect(await promptRefusal(render(second))).toBe('Expected messages[1] to be an object, got undefined');
    expect(await promptRefusal(() => model.generate(new Array(3)))).toContain('messages[0]');
  });

  it('are 10,000 at most, which is seen at once', async () => {
    const expected = (count: number) => `Expected at most 10000 messages, got ${count}`;
    const message = { role: 'user', content: '' };
    expect(await promptRefusal(render(new Array(3e8)), 'ERR_TEMPLATE_LIMIT')).toBe(expected(3e8));
    expect(await promptRefusal(render(lengthened(message)), 'ERR_TEMPLATE_LIMIT')).toBe(expected(2 ** 32 - 1));
    expect(await promptRefusal(render(new Array(10_001).fill(message)), 'ERR_TEMPLATE_LIMIT')).toBe(expected(10_001));
    expect(render(new Array(10_000).fill(message))()).toBe('10000');
    expect(await promptRefusal(() => model.generate(lengthened(message) as never), 'ERR_TEMPLATE_LIMIT')).toContain(
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
    expect(await promptRefusal(() => renderChatTemplate('', { messages: [], variables }))).toContain('variables');
  });

  it('are named where they, not the template, are too long', async () => {
    const long = [{ role: 'user', content: 'x'.repeat(2_000_000) }];
    const expected = 'Expected messages of at most 1048576 characters together, got 2000000';
    expect(await promptRefusal(render(long, '{{ messages[0].content }}'), 'ERR_TEMPLATE_LIMIT')).toBe(expected);
    expect(await promptRefusal(() => model.encode(long), 'ERR_TEMPLATE_LIMIT')).toBe(expected);
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
    await promptRefusal(() => model.generate(value as never));
    await promptRefusal(() => model.encode(value as never));
    await promptRefusal(() => model.logits(value as never));
    await expect(model.perplexity(value as never)).rejects.toBeInstanceOf(IntFlashError);
    await promptRefusal(() => model.tokenizer.encode(value as never));
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
    await promptRefusal(() => model.generate('Hi', options as never));
    await promptRefusal(() => model.logits(ids, options as never));
    await promptRefusal(() => model.perplexity(ids, options as never));
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
    await promptRefusal(() => model.generate('Hi', { [name]: value }));
  });

  it('the window of a perplexity, which is read once', async () => {
    await promptRefusal(() => model.perplexity(ids, getter('window')));
    await promptRefusal(() => model.perplexity(ids, { onProgress: revoked({}) as never }));
    const options = { reads: 0 };
    const once = Object.defineProperty({}, 'window', { get: () => 2 + options.reads++, enumerable: true });
    expect((await model.perplexity(ids, once)).predicted).toBe(2);
    expect(options.reads).toBe(1);
  });

  it('options of loading', async () => {
    await promptRefusal(() => loadModel(folder, throwing()));
    await promptRefusal(() => loadModel(folder, revoked({})));
    await promptRefusal(() => loadModel(folder, { loadSignal: fakeSignal }));
    await promptRefusal(() => loadModel(folder, getter('threads')));
  });

  it('options and ids of a tokenizer', async () => {
    const { tokenizer } = model;
    await promptRefusal(() => tokenizer.encode('Hi', throwing()));
    await promptRefusal(() => tokenizer.decode(throwing([]) as never));
    await promptRefusal(() => tokenizer.decode(revoked([]) as never));
    await promptRefusal(() => tokenizer.decode([1], throwing()));
    await promptRefusal(() => tokenizer.createDetokenizer(throwing()));
  });

  it('the input of a template', async () => {
    await promptRefusal(() => renderChatTemplate('', throwing() as never));
    await promptRefusal(() => renderChatTemplate('', getter('messages') as never));
    await promptRefusal(() => renderChatTemplate('', { messages: revoked([]) as never }));
    await promptRefusal(() => renderChatTemplate('', { messages: [], variables: { x: throwing() } }));
    await promptRefusal(() => renderChatTemplate(revoked({}) as never, { messages: [] }));
  });
});

describe('token ids', () => {
  it('are judged one by one up to the first that is none, whatever the length says', async () => {
    await promptRefusal(() => model.generate(lengthened(5) as never), 'ERR_ARG_RANGE');
    await promptRefusal(() => model.encode(lengthened(5) as never));
    await promptRefusal(() => model.perplexity(lengthened(5) as never));
    await promptRefusal(() => model.tokenizer.decode(lengthened(5) as never), 'ERR_ARG_RANGE');
    await promptRefusal(() => model.tokenizer.decode(new Array(3)), 'ERR_ARG_RANGE');
    await promptRefusal(() => model.tokenizer.token('length' as never), 'ERR_ARG_RANGE');
    expect(model.encode([5, 6])).toEqual([5, 6]);
    expect(model.encode([])).toEqual([]);
  });
});
