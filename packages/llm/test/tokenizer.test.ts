import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import fc from 'fast-check';
import { beforeAll, describe, expect, it } from 'vitest';
import type { JsonObject } from '../src/json-file.js';
import { findNestedRepetition } from '../src/regex-repetition.js';
import { loadTokenizer, Tokenizer } from '../src/tokenizer.js';

const folder = fileURLToPath(new URL('../../../models/int-flash-demo/', import.meta.url));
let tokenizer: Tokenizer;
beforeAll(async () => {
  tokenizer = await loadTokenizer(folder);
});

/** A small BPE tokenizer without bytes; each test spoils one thing. */
function small(changes: { model?: JsonObject; top?: JsonObject } = {}): JsonObject {
  return {
    added_tokens: [{ id: 4, content: '<end>', special: true }],
    normalizer: null,
    pre_tokenizer: null,
    post_processor: null,
    decoder: { type: 'Fuse' },
    model: { type: 'BPE', vocab: { a: 0, b: 1, ab: 2, c: 3 }, merges: ['a b'], ...changes.model },
    ...changes.top,
  };
}

/** Llama 2's way: words joined by U+2581, unknown characters as bytes. */
const byteFallback = new Tokenizer({
  added_tokens: [{ id: 0, content: '</s>', special: true }],
  normalizer: {
    type: 'Sequence',
    normalizers: [
      { type: 'Prepend', prepend: '▁' },
      { type: 'Replace', pattern: { String: ' ' }, content: '▁' },
    ],
  },
  decoder: {
    type: 'Sequence',
    decoders: [
      { type: 'Replace', pattern: { String: '▁' }, content: ' ' },
      { type: 'ByteFallback' },
      { type: 'Fuse' },
      { type: 'Strip', content: ' ', start: 1, stop: 0 },
    ],
  },
  model: {
    type: 'BPE',
    byte_fallback: true,
    vocab: Object.fromEntries([
      ['</s>', 0],
      ['▁', 1],
      ...Array.from({ length: 26 }, (_, i) => [String.fromCharCode(97 + i), 2 + i]),
      ...Array.from({ length: 256 }, (_, byte) => [
        `<0x${byte.toString(16).toUpperCase().padStart(2, '0')}>`,
        28 + byte,
      ]),
    ]),
    merges: [],
  },
});

const stream = (of: Tokenizer, ids: readonly number[]) => {
  const detokenizer = of.createDetokenizer();
  return [...ids.map((id) => detokenizer.push(id)), detokenizer.flush()];
};

describe('the demo model’s tokenizer', () => {
  const golden = JSON.parse(readFileSync(`${folder}bf16-goldens/golden.json`, 'utf8'));

  it('makes the ids that transformers makes, and the text of its continuations', () => {
    expect(golden.prompts).toHaveLength(6);
    for (const { rendered, text, ids, greedy_ids, greedy_text } of golden.prompts) {
      expect(tokenizer.encode(rendered ?? text, { addSpecialTokens: rendered === undefined })).toEqual(ids);
      expect(tokenizer.decode(greedy_ids)).toBe(greedy_text);
      expect(stream(tokenizer, greedy_ids).join('')).toBe(greedy_text);
    }
  });

  it.each(['eval_sgd.txt', 'eval_oz.txt'])('splits %s into its 20,000 tokens and back', (name) => {
    const text = readFileSync(`${folder}${name}`, 'utf8');
    const ids = tokenizer.encode(text, { addSpecialTokens: false });
    expect(ids).toHaveLength(20_000);
    expect(tokenizer.decode(ids)).toBe(text);
  });

  it('knows its special tokens', () => {
    expect(tokenizer).toMatchObject({ vocabSize: 4096, bosTokenId: 0, eosTokenId: 1, padTokenId: 1 });
    expect(tokenizer.specialTokens.map(({ text }) => text)).toEqual([
      '<|bos|>',
      '<|end|>',
      '<|system|>',
      '<|user|>',
      '<|assistant|>',
    ]);
    expect(tokenizer.encode('hi')[0]).toBe(0);
    expect(tokenizer.encode('hi', { addSpecialTokens: false })[0]).not.toBe(0);
    expect(tokenizer.decode([0, 45, 1])).toBe('<|bos|>I<|end|>');
    expect(tokenizer.decode([0, 45, 1], { skipSpecialTokens: true })).toBe('I');
    expect([tokenizer.isSpecial(1), tokenizer.isSpecial(45), tokenizer.idOf('<|user|>'), tokenizer.token(3)]).toEqual([
      true,
      false,
      3,
      '<|user|>',
    ]);
  });
});

describe.each([
  ['byte-level', () => tokenizer],
  ['byte fallback', () => byteFallback],
])('a %s vocabulary', (_, get) => {
  const text = fc.string({
    unit: fc.oneof(
      fc.constantFrom('a', 'b', ' ', 'é', '語', '👩‍👧', '😀', '<'),
      fc.string({ unit: 'binary', minLength: 1, maxLength: 1 }),
    ),
    maxLength: 20,
  });
  const clean = text.filter((value) => !/[\ufffd\u2581]/.test(value));

  it('gives every text back', () => {
    fc.assert(
      fc.property(clean, (value) => {
        expect(get().decode(get().encode(value, { addSpecialTokens: false }))).toBe(value);
      }),
    );
  });

  it('streams the same text without ever showing half a character', () => {
    fc.assert(
      fc.property(clean, (value) => {
        const pieces = stream(get(), get().encode(value, { addSpecialTokens: false }));
        expect(pieces.join('')).toBe(value);
        for (const piece of pieces) expect(piece).not.toContain('\ufffd');
      }),
    );
  });

  it('streams any ids to what they decode to', () => {
    fc.assert(
      fc.property(fc.array(fc.nat(get().vocabSize - 1), { maxLength: 12 }), (ids) => {
        const printable = ids.filter((id) => get().idOf(get().token(id)) === id);
        const text = stream(get(), printable).join('');
        if (get() === tokenizer) expect(text).toBe(tokenizer.decode(printable));
        // A window sees broken bytes in smaller groups and may count their marks otherwise.
        else expect(text.replaceAll('\ufffd', '')).toBe(byteFallback.decode(printable).replaceAll('\ufffd', ''));
      }),
      { examples: [[[156, 156, 156, 222, 156]]] }, // three stray bytes, then a character of two
    );
  });
});

it('holds back an emoji until its last byte', () => {
  const ids = tokenizer.encode('😀', { addSpecialTokens: false });
  expect(ids.length).toBeGreaterThan(1);
  expect(stream(tokenizer, ids)).toEqual([...ids.slice(1).map(() => ''), '😀', '']);
  expect(stream(tokenizer, ids.slice(0, -1)).at(-1)).toBe('\ufffd'); // the end of the stream cannot wait
});

describe('Tokenizer refuses', () => {
  const fine = small();
  it('nothing of the small one', () => expect(new Tokenizer(fine).encode('abc')).toEqual([2, 3]));

  const vocab = { a: 0, b: 1, ab: 2, c: 3 };
  const pattern = (Regex: string) =>
    small({ top: { pre_tokenizer: { type: 'Split', pattern: { Regex }, behavior: 'Isolated' } } });
  it.each<[string, JsonObject, string]>([
    ['no model', small({ top: { model: undefined } }), 'ERR_TOKENIZER'],
    ['a model that is null', small({ top: { model: null } }), 'ERR_TOKENIZER'],
    ['a model of another kind', small({ model: { type: 'Morse' } }), 'ERR_UNSUPPORTED'],
    ['no vocabulary', small({ model: { vocab: undefined } }), 'ERR_TOKENIZER'],
    ['an empty vocabulary', small({ model: { vocab: {} } }), 'ERR_TOKENIZER'],
    ['a vocabulary that is an array', small({ model: { vocab: ['a'] } }), 'ERR_TOKENIZER'],
    ['an id of -1', small({ model: { vocab: { ...vocab, d: -1 } } }), 'ERR_TOKENIZER'],
    ['an id of 1.5', small({ model: { vocab: { ...vocab, d: 1.5 } } }), 'ERR_TOKENIZER'],
    ['an id of "5"', small({ model: { vocab: { ...vocab, d: '5' } } }), 'ERR_TOKENIZER'],
    ['an id of null', small({ model: { vocab: { ...vocab, d: null } } }), 'ERR_TOKENIZER'],
    ['an id of NaN', small({ model: { vocab: { ...vocab, d: Number.NaN } } }), 'ERR_TOKENIZER'],
    ['an id of 2^32', small({ model: { vocab: { ...vocab, d: 2 ** 32 } } }), 'ERR_TOKENIZER_LIMIT'],
    ['an id of 2^53', small({ model: { vocab: { ...vocab, d: 2 ** 53 } } }), 'ERR_TOKENIZER_LIMIT'],
    ['an id twice', small({ model: { vocab: { ...vocab, d: 1 } } }), 'ERR_TOKENIZER'],
    ['an added token with a taken id', small({ top: { added_tokens: [{ id: 1, content: 'x' }] } }), 'ERR_TOKENIZER'],
    [
      'an added token whose id is no number',
      small({ top: { added_tokens: [{ id: { toString: '' }, content: 'x' }] } }),
      'ERR_TOKENIZER',
    ],
    ['an added token with two ids', small({ top: { added_tokens: [{ id: 9, content: 'a' }] } }), 'ERR_TOKENIZER'],
    ['an added token of no text', small({ top: { added_tokens: [{ id: 9, content: '' }] } }), 'ERR_TOKENIZER'],
    ['an added token that is a string', small({ top: { added_tokens: ['x'] } }), 'ERR_TOKENIZER'],
    [
      'a token of 5,000 characters',
      small({ top: { added_tokens: [{ id: 9, content: 'x'.repeat(5000) }] } }),
      'ERR_TOKENIZER_LIMIT',
    ],
    ['a merge of an unknown token', small({ model: { merges: ['a z'] } }), 'ERR_TOKENIZER'],
    ['a merge into an unknown token', small({ model: { merges: ['b c'] } }), 'ERR_TOKENIZER'],
    ['a merge of one token', small({ model: { merges: ['ab'] } }), 'ERR_TOKENIZER'],
    ['a merge of three tokens', small({ model: { merges: [['a', 'b', 'c']] } }), 'ERR_TOKENIZER'],
    ['a merge that is a number', small({ model: { merges: [7] } }), 'ERR_TOKENIZER'],
    ['merges that are an object', small({ model: { merges: {} } }), 'ERR_TOKENIZER'],
    ['an unknown pre-tokenizer', small({ top: { pre_tokenizer: { type: 'Zap' } } }), 'ERR_TOKENIZER'],
    ['an unknown decoder', small({ top: { decoder: { type: 'Zap' } } }), 'ERR_TOKENIZER'],
    ['pieces of length 0', small({ top: { pre_tokenizer: { type: 'FixedLength', length: 0 } } }), 'ERR_TOKENIZER'],
    ['a pattern that is none', pattern('('), 'ERR_TOKENIZER'],
    ['(a+)+$', pattern('(a+)+$'), 'ERR_TOKENIZER_LIMIT'],
    ['(a|aa)*$', pattern('(a|aa)*$'), 'ERR_TOKENIZER_LIMIT'],
    ['((a*)b?){9}', pattern('((a*)b?){9}'), 'ERR_TOKENIZER_LIMIT'],
    [
      'a nested pattern in a normalizer',
      small({ top: { normalizer: { type: 'Replace', pattern: { Regex: '(?:a*)*' }, content: '' } } }),
      'ERR_TOKENIZER_LIMIT',
    ],
    [
      'a nested pattern deep in a sequence',
      small({ top: { pre_tokenizer: { type: 'Sequence', pretokenizers: [pattern('(a+)+').pre_tokenizer] } } }),
      'ERR_TOKENIZER_LIMIT',
    ],
    [
      '100 pre-tokenizers',
      small({ top: { pre_tokenizer: { type: 'Sequence', pretokenizers: Array(100).fill({ type: 'Whitespace' }) } } }),
      'ERR_TOKENIZER_LIMIT',
    ],
    ['a pattern of 5,000 characters', pattern('a'.repeat(5000)), 'ERR_TOKENIZER_LIMIT'],
  ])('%s', (_, json, code) => {
    expect(() => new Tokenizer(json)).toThrow(expect.objectContaining({ code }));
  });

  it('text that is too long, or of another type, and ids it does not have', () => {
    expect(() => tokenizer.encode('a'.repeat(2 ** 22 + 1))).toThrow(
      expect.objectContaining({ code: 'ERR_TOKENIZER_LIMIT' }),
    );
    expect(() => tokenizer.encode(7 as never)).toThrow(expect.objectContaining({ code: 'ERR_ARG_TYPE' }));
    expect(() => tokenizer.encode('a', { addSpecial: true } as never)).toThrow(
      expect.objectContaining({ code: 'ERR_ARG_RANGE' }),
    );
    for (const id of [-1, 4096, 1.5, Number.NaN]) {
      expect(() => tokenizer.decode([id])).toThrow(expect.objectContaining({ code: 'ERR_ARG_RANGE' }));
      expect(() => tokenizer.createDetokenizer().push(id)).toThrow(expect.objectContaining({ code: 'ERR_ARG_RANGE' }));
      expect(() => byteFallback.createDetokenizer().push(id)).toThrow(
        expect.objectContaining({ code: 'ERR_ARG_RANGE' }),
      );
    }
  });

  it('to go on with a pattern that takes too long, although it nests nothing', () => {
    const slow = new Tokenizer(pattern('a*a*a*a*a*a*a*z'));
    expect(() => slow.encode('a'.repeat(500))).toThrow(expect.objectContaining({ code: 'ERR_TOKENIZER_LIMIT' }));
    expect(slow.encode('ab')).toEqual([2]);
  });
});

describe('findNestedRepetition', () => {
  it.each([
    // The split rules of GPT-2, of Llama 3 and Qwen, and of o200k.
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+",
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
    "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\\p{N}{1,3}",
    ' ?[^(\\s|[.,!?…。，、।۔،])]+',
    '(?:\\p{L}\\p{M})+',
    '[()+*|]+',
    '\\(+\\)+',
    '(a+){1}',
    '(a|b)?',
  ])('lets %s pass', (pattern) => expect(findNestedRepetition(pattern)).toBeUndefined());

  it.each([
    '(a+)+',
    '(?:a*)*',
    '(a?)+',
    '((a)*)+',
    '(a|b)+',
    '(a{2,}){2,}',
    '(x[ab]+y)*',
    '(?=(a+))+',
    '(?<n>a+)*',
    '(a+|b)+?',
  ])('stops %s', (pattern) => expect(findNestedRepetition(pattern)).toMatch(/^\(.*\)/));
});
