import fc from 'fast-check';
import { CHAT } from './serve-harness.js';

export interface FuzzedRequest {
  readonly path?: string;
  readonly method?: string;
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: string;
}

const odd = fc.oneof(
  fc.constantFrom<unknown>(null, true, '', 'x', 0, -1, 1.5, 1e9, 1e308, [], {}, [[]], 'file:///etc/passwd', '\u0000'),
  fc.jsonValue({ maxDepth: 3 }),
);
const message = fc.record(
  {
    role: fc.oneof(fc.constantFrom('user', 'assistant', 'system', 'tool', 'root'), odd),
    content: fc.oneof(fc.string(), fc.constant([{ type: 'text', text: 'x' }]), odd),
    name: odd,
    [`__proto__`]: odd,
  },
  { requiredKeys: ['role'] },
);
const fields = {
  messages: fc.oneof(fc.array(message, { maxLength: 4 }), fc.constant([{ role: 'user', content: 'hello' }]), odd),
  prompt: fc.oneof(fc.string(), fc.array(fc.nat(400), { maxLength: 5 }), odd),
  model: fc.oneof(fc.constant('mock'), odd),
  stream: fc.oneof(fc.boolean(), odd),
  n: fc.oneof(fc.integer({ min: -1, max: 9 }), odd),
  max_tokens: fc.oneof(fc.integer({ min: -1, max: 9 }), odd),
  temperature: fc.oneof(fc.double({ min: -1, max: 3 }), odd),
  top_p: fc.oneof(fc.double({ min: -1, max: 2 }), odd),
  stop: fc.oneof(fc.string(), fc.array(fc.string(), { maxLength: 5 }), odd),
  logprobs: fc.oneof(fc.boolean(), fc.integer({ min: -1, max: 22 }), odd),
  top_logprobs: fc.oneof(fc.integer({ min: -1, max: 22 }), odd),
  logit_bias: fc.oneof(fc.dictionary(fc.nat(300).map(String), fc.double({ min: -101, max: 101 })), odd),
  seed: odd,
  stream_options: fc.oneof(fc.constant({ include_usage: true }), odd),
  presence_penalty: odd,
  tools: odd,
  user: odd,
};

/** Never more than a few tokens: unless a field says otherwise, `max_tokens` is one. */
const body = fc.oneof(
  {
    arbitrary: fc.record(fields, { requiredKeys: [] }).map((given) => JSON.stringify({ max_tokens: 2, ...given })),
    weight: 6,
  },
  { arbitrary: goodWithOne(), weight: 6 },
  { arbitrary: fc.string({ unit: 'binary', maxLength: 60 }), weight: 1 },
  { arbitrary: fc.json(), weight: 1 },
  { arbitrary: fc.integer({ min: 1, max: 3000 }).map((depth) => '['.repeat(depth)), weight: 1 },
);

/** A good request with one field replaced: gets further in. */
function goodWithOne(): fc.Arbitrary<string> {
  const good = { messages: [{ role: 'user', content: 'hello' }], max_tokens: 2 };
  const names = Object.keys(fields) as (keyof typeof fields)[];
  return fc.constantFrom(...names).chain((name) => {
    const values: fc.Arbitrary<unknown> = fields[name];
    return values.map((value) => JSON.stringify({ ...good, [name]: value }));
  });
}

/** A request as nobody sends it on purpose: mostly to completions, with a body of some kind. */
export const fuzzedRequest: fc.Arbitrary<FuzzedRequest> = fc.oneof(
  { arbitrary: fc.record({ body, path: fc.constantFrom(CHAT, '/v1/completions') }), weight: 20 },
  {
    arbitrary: fc.record({
      path: fc.webPath().map((path) => path || '/'),
      method: fc.constantFrom('GET', 'PUT', 'DELETE', 'HEAD', 'PATCH', 'OPTIONS'),
    }),
    weight: 1,
  },
  {
    arbitrary: fc.record({
      body,
      headers: fc.constantFrom<Record<string, string>>(
        { 'content-type': 'text/html' },
        { 'content-type': 'application/json; charset=utf-16' },
        { 'content-encoding': 'gzip' },
        { host: 'elsewhere' },
        { authorization: 'Bearer x' },
      ),
    }),
    weight: 1,
  },
);

/** Whether an answer that refuses says so in the API's form. A HEAD request's has no body. */
export function isTyped(text: string): boolean {
  if (text === '') return true;
  try {
    const { error } = JSON.parse(text);
    return ['message', 'type'].every((name) => typeof error[name] === 'string') && 'param' in error && 'code' in error;
  } catch {
    return false;
  }
}
