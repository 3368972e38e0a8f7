import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { type ChatTemplateInput, renderChatTemplate } from '../src/chat-template.js';

const messages = [
  { role: 'system', content: 'Be brief.' },
  { role: 'user', content: ' Hello! ' },
];
const render = (template: string, more: Partial<ChatTemplateInput> = {}) =>
  renderChatTemplate(template, { messages, ...more });

describe('renderChatTemplate', () => {
  it('renders the demo model’s prompts as transformers does', () => {
    const folder = new URL('../../../models/int-flash-demo/', import.meta.url);
    const { chat_template } = JSON.parse(readFileSync(new URL('tokenizer_config.json', folder), 'utf8'));
    const golden = JSON.parse(readFileSync(new URL('bf16-goldens/golden.json', folder), 'utf8'));
    const chats = golden.prompts.filter((prompt: { messages?: unknown }) => prompt.messages);
    expect(chats.length).toBeGreaterThan(0);
    for (const prompt of chats) {
      expect(renderChatTemplate(chat_template, { messages: prompt.messages, bosToken: '<|bos|>' })).toBe(
        prompt.rendered,
      );
    }
  });

  // Written for this test in the manner of common ones: a namespace, a filtered loop, macros, slices, methods, tests.
  it('renders what chat templates use', () => {
    const template = `{%- macro turn(role, text, mark='|') -%}<{{ mark }}{{ role }}{{ mark }}>{{ text | trim }}
{% endmacro -%}
{%- set ns = namespace(count=0, last='') -%}
{%- if messages[0]['role'] == 'system' -%}{{ turn('sys', messages[0].content) }}{%- set rest = messages[1:] -%}{%- endif -%}
{%- for m in rest if m.role in ['user', 'assistant'] -%}
{%- set ns.count = ns.count + 1 -%}{{ turn(m.role, m.content.split('!')[0] ~ '!', mark='#') }}{{ loop.index }}/{{ rest | length }}
{%- endfor -%}
{{ ns.count }}{{ messages | map(attribute='role') | join(',') }}{{ {'a': 1} | tojson }}{{ 'x' if x is defined else 'no x' }}
{%- if add_generation_prompt %}{{ bos_token }}go{% endif %}`;
    expect(render(template, { bosToken: '<s>' })).toBe(
      '<|sys|>Be brief.\n<#user#>Hello!\n1/11system,user{"a": 1}no x<s>go',
    );
    expect(render('{{ x }}', { variables: { x: 3 } })).toBe('3');
    expect(render('{{ add_generation_prompt }}', { addGenerationPrompt: false })).toBe('false');
    expect(render("{{ strftime_now('%Y') }}")).toMatch(/^\d{4}$/);
    expect(render("{% filter upper %}a{{ 'b' }}{% endfilter %}")).toBe('AB');
    expect(render("{{ messages | selectattr('role', 'equalto', 'user') | list | length }}")).toBe('1');
    expect(render("{{ 'a-b-c'.split('-', 1) | join('+') }}{{ 'aXbX'.replace('X', '.') }}")).toBe('a+b-c' + 'a.b.');
    expect(render('{% for i in range(3) %}{% if i == 1 %}{% continue %}{% endif %}{{ i }}{% endfor %}')).toBe('02');
  });

  it('takes long ordinary chats', () => {
    const long = Array.from({ length: 1000 }, (_, i) => ({
      role: i % 2 ? 'assistant' : 'user',
      content: 'word '.repeat(100),
    }));
    const template = '{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}{{ messages | length }}{% endfor %}';
    expect(renderChatTemplate(template, { messages: long })).toHaveLength(1000 * 499 + 500 * 6 + 500 * 11 + 4000);
  });

  it('writes out a list of more items than a call has arguments', () => {
    const numbers = new Array(150_000).fill(1);
    expect(render('{{ x }}', { variables: { x: [numbers] } })).toBe(`[[${numbers.join(', ')}]]`);
  });

  it('passes on a refusal of the template', () => {
    const template = "{% if messages[0].role != 'user' %}{{ raise_exception('the user speaks first') }}{% endif %}";
    expect(() => render(template)).toThrow(expect.objectContaining({ code: 'ERR_TEMPLATE' }));
    expect(() => render(template)).toThrow(/the user speaks first/);
  });

  it.each([
    ['an unclosed block', '{% for m in messages %}'],
    ['an unclosed expression', '{{ messages'],
    ['an unknown filter', '{{ messages | zap }}'],
    ['a call of a text', "{{ 'a'() }}"],
    ['a loop over a number', '{% for i in 3 %}{% endfor %}'],
    ['range of a text', "{{ range('a') }}"],
    ['range with step 0', '{{ range(1, 2, 0) }}'],
    ['a break outside of a loop', '{% break %}'],
  ])('refuses %s', (_, template) => {
    expect(() => render(template)).toThrow(expect.objectContaining({ code: 'ERR_TEMPLATE' }));
  });

  it.each([
    ['messages that are no array', { messages: 'hi' }],
    ['a message without a role', { messages: [{ content: 'x' }] }],
    ['a content that is a number', { messages: [{ role: 'user', content: 3 }] }],
    ['a function', { messages, variables: { f: () => 1 } }],
    ['a class instance', { messages, variables: { d: new Date() } }],
    ['a bigint', { messages, variables: { n: 1n } }],
    ['NaN', { messages, variables: { n: Number.NaN } }],
  ])('refuses %s', (_, input) => {
    expect(() => renderChatTemplate('{{ 1 }}', input as never)).toThrow(
      expect.objectContaining({ code: 'ERR_ARG_TYPE' }),
    );
  });

  it('refuses unknown input keys and variables that would hide its own', () => {
    expect(() => renderChatTemplate('', { messages, tools: [] } as never)).toThrow(
      expect.objectContaining({ code: 'ERR_ARG_RANGE' }),
    );
    for (const name of ['range', 'messages', 'raise_exception', 'true']) {
      expect(() => render('', { variables: { [name]: 1 } })).toThrow(
        expect.objectContaining({ code: 'ERR_ARG_RANGE' }),
      );
    }
  });

  it('lets nothing of the host be reached', () => {
    for (const path of [
      'messages.constructor',
      "''.constructor",
      "messages['__proto__']",
      'messages[0].__proto__',
      'range.constructor',
      'namespace.constructor',
      'loop',
      'process',
      'globalThis',
      'this',
    ]) {
      expect(render(`{{ ${path} is defined }}`), path).toBe('false');
    }
  });
});

describe('a hostile template is stopped', () => {
  const big = 'x'.repeat(2 ** 20);
  const hostile: [string, string][] = [
    ['nested loops', '{% for a in range(1000) %}{% for b in range(1000) %}{{ b }}{% endfor %}{% endfor %}'],
    ['nested empty loops', '{% for a in range(10000) %}{% for b in range(10000) %}{% endfor %}{% endfor %}'],
    [
      'loops that a filter empties',
      '{% for a in range(9999) %}{% for b in range(9999) if false %}{% endfor %}{% endfor %}',
    ],
    [
      'a doubling text',
      `{% set ns = namespace(s='ab') %}{% for i in range(99) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}`,
    ],
    [
      'a doubling text by +',
      `{% set ns = namespace(s='ab') %}{% for i in range(99) %}{% set ns.s = ns.s + ns.s %}{% endfor %}`,
    ],
    [
      'a doubling list',
      '{% set ns = namespace(l=[1]) %}{% for i in range(99) %}{% set ns.l = ns.l + ns.l %}{% endfor %}',
    ],
    [
      'a tree of shared lists',
      `{% set ns = namespace(l=[1]) %}{% for i in range(60) %}{% set ns.l = [ns.l, ns.l] %}{% endfor %}{{ ns.l }}`,
    ],
    [
      'the same, as JSON',
      `{% set ns = namespace(l=[1]) %}{% for i in range(60) %}{% set ns.l = [ns.l, ns.l] %}{% endfor %}{{ ns.l | tojson }}`,
    ],
    [
      'the same, joined',
      `{% set ns = namespace(l=[1]) %}{% for i in range(60) %}{% set ns.l = [ns.l, ns.l] %}{% endfor %}{{ '' ~ ns.l }}`,
    ],
    [
      'the same, compared',
      `{% set ns = namespace(l=[1]) %}{% for i in range(60) %}{% set ns.l = [ns.l, ns.l] %}{% endfor %}{{ ns.l == '' }}`,
    ],
    ['a namespace that holds itself', '{% set ns = namespace() %}{% set ns.me = ns %}{{ ns | tojson }}'],
    ['a macro that calls itself', '{% macro f(n) %}{{ f(n) }}{% endmacro %}{{ f(1) }}'],
    [
      'two macros that call each other',
      '{% macro f() %}{{ g() }}{% endmacro %}{% macro g() %}{{ f() }}{% endmacro %}{{ f() }}',
    ],
    [
      'a macro that calls itself twice',
      '{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(50) }}',
    ],
    ['range(1e8)', '{{ range(100000000) }}'],
    ['range over 10,000', '{{ range(10001) | length }}'],
    ['a long range by steps', '{{ range(0, -100000, -1) }}'],
    ['replace that multiplies', `{% set s = big %}{{ s.replace('x', big) }}`],
    ['replace of nothing', `{{ big.replace('', big) }}`],
    ['the filter replace', `{{ big | replace('x', big) }}`],
    ['replace as a block', `{% filter replace('x', big) %}{{ big }}{% endfilter %}`],
    ['join with a long separator', '{{ range(10000) | join(big) }}'],
    ['join of a text', '{{ big | join(big) }}'],
    ['a deep indent', `{{ ('\\n' ~ big) | indent(100000000) }}`],
    ['JSON with a deep indent', '{{ messages | tojson(indent=100000000) }}'],
    ['split into a million', `{{ big.split('x') | length }}`],
    ['long output', '{% for i in range(100) %}{{ big[:100000] }}{% endfor %}'],
    ['long output by a macro', '{% macro f() %}{{ big }}{{ big }}{% endmacro %}{{ f() }}'],
    ['many large copies', '{% for i in range(1000) %}{% set a = big | upper %}{% endfor %}'],
    ['deep brackets', `{{ ${'('.repeat(20_000)}1${')'.repeat(20_000)} }}`],
    ['deep lists', `{{ ${'['.repeat(20_000)}${']'.repeat(20_000)} }}`],
    ['deep blocks', `${'{% if 1 %}'.repeat(5000)}${'{% endif %}'.repeat(5000)}`],
    ['a template over its length', ' '.repeat(2 ** 17 + 1)],
  ];

  it.each(hostile)('%s', (_, template) => {
    expect(() => render(template, { variables: { big } })).toThrow(
      expect.objectContaining({ code: 'ERR_TEMPLATE_LIMIT' }),
    );
  });

  it('and the next one renders', () => expect(render('{{ messages | length }}')).toBe('2'));
});
