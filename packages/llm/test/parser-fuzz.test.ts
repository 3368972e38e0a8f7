import { readFileSync } from 'node:fs';
import { IntFlashError } from '@int-flash/ops';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { renderChatTemplate } from '../src/chat-template.js';
import type { JsonObject } from '../src/json-file.js';
import { parseJsonText } from '../src/json-text.js';
import { parseModelConfig } from '../src/model-config.js';
import { parseShardedIndex } from '../src/sharded-index.js';
import { Tokenizer } from '../src/tokenizer.js';

const RUNS = 1500;
const configOf = (name: string): JsonObject =>
  JSON.parse(readFileSync(new URL(`goldens/${name}/config.json`, import.meta.url), 'utf8'));
const configs = ['llama-yarn', 'mistral-sliding', 'qwen2', 'gpt2'].map(configOf);
const smallTokenizer: JsonObject = {
  added_tokens: [{ id: 4, content: '<e>', special: true }],
  normalizer: {
    type: 'Sequence',
    normalizers: [{ type: 'NFC' }, { type: 'Replace', pattern: { String: ' ' }, content: '_' }],
  },
  pre_tokenizer: { type: 'Split', pattern: { Regex: '\\w+|\\W' }, behavior: 'Isolated', invert: false },
  post_processor: {
    type: 'TemplateProcessing',
    single: [{ Sequence: { id: 'A', type_id: 0 } }],
    pair: [],
    special_tokens: {},
  },
  decoder: { type: 'ByteLevel' },
  model: { type: 'BPE', vocab: { a: 0, b: 1, ab: 2, _: 3 }, merges: ['a b'], unk_token: '_' },
};

const value = fc.oneof(
  fc.jsonValue({ maxDepth: 3 }),
  fc.constantFrom(
    -1,
    0,
    0.5,
    1,
    2 ** 31,
    2 ** 53,
    1e308,
    Number.MAX_SAFE_INTEGER,
    '',
    'a',
    '__proto__',
    'constructor',
    [],
    {},
    [null],
    true,
    null,
  ),
);

/** Replaces one value somewhere inside, or a whole branch. */
function spoil(json: unknown, path: readonly number[], by: unknown): unknown {
  if (typeof json !== 'object' || json === null || path.length === 0) return by;
  const keys = Object.keys(json);
  if (keys.length === 0) return by;
  const key = keys[path[0]! % keys.length]!;
  const copy = (Array.isArray(json) ? [...json] : { ...json }) as Record<string, unknown>;
  copy[key] = spoil(copy[key], path.slice(1), by);
  return copy;
}

const path = fc.array(fc.nat(50), { minLength: 1, maxLength: 4 });

/** Runs it and lets only the library's own errors pass, with one of these codes. */
function outcome(run: () => unknown, codes: RegExp): 'fine' | 'refused' {
  try {
    run();
    return 'fine';
  } catch (error) {
    if (!IntFlashError.isInstance(error)) throw error;
    expect(error.code).toMatch(codes);
    return 'refused';
  }
}

describe('whatever a file holds, it is read or refused with a typed error', () => {
  it('config.json', () => {
    const seen = new Set<string>();
    fc.assert(
      fc.property(fc.constantFrom(...configs), path, value, (config, at, by) => {
        seen.add(
          outcome(
            () => parseModelConfig(spoil(config, at, by) as JsonObject),
            /^ERR_(MODEL_FORMAT|MODEL_LIMIT|UNSUPPORTED)$/,
          ),
        );
      }),
      { numRuns: RUNS },
    );
    expect(seen.size).toBe(2);
  });

  it('model.safetensors.index.json', () => {
    const index = { metadata: { total_size: 9 }, weight_map: { a: 'x.safetensors', b: 'y.safetensors' } };
    fc.assert(
      fc.property(path, value, (at, by) => {
        outcome(() => parseShardedIndex(spoil(index, at, by) as JsonObject), /^ERR_MODEL_(FORMAT|LIMIT)$/);
      }),
      { numRuns: RUNS },
    );
  });

  it('tokenizer.json, and then text is split or refused', () => {
    const seen = new Set<string>();
    fc.assert(
      fc.property(path, value, fc.string({ maxLength: 8 }), (at, by, text) => {
        const run = () => {
          const tokenizer = new Tokenizer(spoil(smallTokenizer, at, by) as JsonObject);
          const ids = tokenizer.encode(`ab a${text}`);
          for (const id of ids) expect(tokenizer.token(id)).toBeTypeOf('string');
          tokenizer.decode(ids);
        };
        seen.add(outcome(run, /^ERR_(TOKENIZER|TOKENIZER_LIMIT|UNSUPPORTED)$/));
      }),
      { numRuns: RUNS },
    );
    expect(seen.size).toBe(2);
  });

  it('a chat template', () => {
    const piece = fc.oneof(
      fc.constantFrom(
        ...[
          '{{',
          '}}',
          '{%',
          '%}',
          'for m in messages',
          'endfor',
          'if',
          'endif',
          'else',
          'set x =',
          'macro f(a)',
          'endmacro',
          'f(1)',
        ],
        ...[
          'messages',
          "m['role']",
          'm.content',
          '| trim',
          '| join',
          '| tojson',
          '| length',
          '| replace("a", x)',
          '~',
          '+',
          '==',
          'in',
        ],
        ...[
          '[',
          ']',
          '(',
          ')',
          '"a"',
          "'",
          '1',
          '0',
          'range(3)',
          'namespace()',
          'is defined',
          'not',
          '-',
          ' ',
          '\n',
          '{#',
          '#}',
          ':',
          ',',
        ],
      ),
      fc.string({ maxLength: 3 }),
    );
    const template = fc.array(piece, { maxLength: 16 }).map((pieces) => pieces.join(' '));
    const messages = [{ role: 'user', content: 'hi' }];
    const expression = fc.array(piece, { maxLength: 6 }).map((pieces) => `{{ ${pieces.join(' ')} }}`);
    fc.assert(
      fc.property(fc.oneof(template, expression), (text) => {
        outcome(() => expect(renderChatTemplate(text, { messages })).toBeTypeOf('string'), /^ERR_TEMPLATE(_LIMIT)?$/);
      }),
      { numRuns: RUNS },
    );
  });

  it('JSON text: what passes is what JSON.parse reads, and no key is there twice', () => {
    const source = { name: 'x', code: 'ERR_MODEL_FORMAT', limitCode: 'ERR_MODEL_LIMIT' } as const;
    const text = fc.oneof(
      fc.json(),
      fc
        .array(fc.constantFrom('{', '}', '[', ']', '"a"', '"\\u0061"', '"b"', ':', ',', '1', ' ', '\\', '"'), {
          maxLength: 12,
        })
        .map((t) => t.join('')),
    );
    fc.assert(
      fc.property(text, (json) => {
        let parsed: unknown;
        if (outcome(() => (parsed = parseJsonText(json, source)), /^ERR_MODEL_(FORMAT|LIMIT)$/) === 'fine') {
          expect(parsed).toEqual(JSON.parse(json));
        }
      }),
      { numRuns: RUNS },
    );
    for (const twice of ['{"a":1,"a":2}', '{"a":1,"\\u0061":2}', '[{"x":{"a":1 , "a" :2}}]']) {
      expect(() => parseJsonText(twice, source)).toThrow(/each key once/);
    }
    expect(parseJsonText('[{"a":1},{"a":2},{"b":"a","c":["a","a"]}]', source)).toHaveLength(3);
  });
});
