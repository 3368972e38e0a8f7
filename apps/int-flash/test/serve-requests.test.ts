import { once } from 'node:events';
import { connect } from 'node:net';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { mockEngine } from './mock-engine.js';
import { ask, CHAT, chat, events, type Served, startServer, until } from './serve-harness.js';

let served: Served;
const engine = mockEngine();

beforeAll(async () => {
  served = await startServer(engine);
});

afterAll(async () => {
  expect(served.reports).toEqual([]);
  expect(engine.held()).toEqual({ sequences: 0, kvCacheBytes: 0 });
  await served.close();
});

const deep = (levels: number) => `${'['.repeat(levels)}${']'.repeat(levels)}`;

/** What, the body (or what is changed in a good one), status, the parameter at fault or the code. */
const BAD: [what: string, body: unknown, status: number, at: string | null][] = [
  ['no JSON', '{"messages":', 400, 'invalid_json'],
  ['an empty body', '', 400, 'invalid_json'],
  ['not UTF-8', Buffer.from('{"messages":[{"role":"user","content":"\xff"}]}', 'latin1'), 400, 'invalid_json'],
  ['too deep', `{"messages":${deep(64)}}`, 400, 'invalid_json'],
  ['far too deep', deep(500_000), 400, 'invalid_json'],
  ['an array', '[]', 400, null],
  ['null', 'null', 400, null],
  ['a string', '"x"', 400, null],
  ['missing messages', '{}', 400, 'messages'],
  ['no message', { messages: [] }, 400, 'messages'],
  ['too many messages', { messages: new Array(2049).fill({ role: 'user', content: 'x' }) }, 400, 'messages'],
  ['role root', { messages: [{ role: 'root', content: 'x' }] }, 400, 'messages.0.role'],
  ['role tool', { messages: [{ role: 'tool', content: 'x', tool_call_id: 'a' }] }, 400, 'messages.0.role'],
  ['no content', { messages: [{ role: 'user' }] }, 400, 'messages.0.content'],
  ['content 5', { messages: [{ role: 'user', content: 5 }] }, 400, 'messages.0.content'],
  [
    'an image by URL',
    { messages: [{ role: 'user', content: [{ type: 'image_url', image_url: { url: 'http://127.0.0.1/x' } }] }] },
    400,
    'messages.0.content.0.type',
  ],
  [
    'a file by URL',
    { messages: [{ role: 'user', content: [{ type: 'file', file: { file_data: 'file:///etc/passwd' } }] }] },
    400,
    'messages.0.content.0.type',
  ],
  ['an unknown model', chat({ model: 'gpt-7' }), 404, 'model_not_found'],
  ['model 5', chat({ model: 5 }), 400, 'model'],
  ['temperature "hot"', chat({ temperature: 'hot' }), 400, 'temperature'],
  ['temperature NaN', '{"messages":[{"role":"user","content":"x"}],"temperature":NaN}', 400, 'invalid_json'],
  ['temperature 1e400', '{"messages":[{"role":"user","content":"x"}],"temperature":1e400}', 400, 'temperature'],
  ['temperature 3', chat({ temperature: 3 }), 400, 'temperature'],
  ['temperature −1', chat({ temperature: -1 }), 400, 'temperature'],
  ['top_p 0', chat({ top_p: 0 }), 400, 'top_p'],
  ['top_p 1.1', chat({ top_p: 1.1 }), 400, 'top_p'],
  ['max_tokens −1', chat({ max_tokens: -1 }), 400, 'max_tokens'],
  ['max_tokens 0', chat({ max_tokens: 0 }), 400, 'max_tokens'],
  ['max_tokens 1.5', chat({ max_tokens: 1.5 }), 400, 'max_tokens'],
  ['max_tokens 1e9', chat({ max_tokens: 1e9 }), 400, 'context_length_exceeded'],
  ['one token too many', chat({ max_tokens: 1020 }), 400, 'context_length_exceeded'],
  [
    'a prompt that fills the context',
    { messages: [{ role: 'user', content: 'x'.repeat(1024) }] },
    400,
    'context_length_exceeded',
  ],
  [
    'a prompt that cannot fit',
    { messages: [{ role: 'user', content: 'x'.repeat(1_000_000) }] },
    400,
    'context_length_exceeded',
  ],
  ['n 0', chat({ n: 0 }), 400, 'n'],
  ['n 9', chat({ n: 9 }), 400, 'n'],
  ['n 1e6', chat({ n: 1e6 }), 400, 'n'],
  ['five stops', chat({ stop: ['a', 'b', 'c', 'd', 'e'] }), 400, 'stop'],
  ['a long stop', chat({ stop: 'x'.repeat(129) }), 400, 'stop'],
  ['an empty stop', chat({ stop: [''] }), 400, 'stop.0'],
  ['an unknown id in logit_bias', chat({ logit_bias: { 256: 1 } }), 400, 'logit_bias'],
  ['no id in logit_bias', chat({ logit_bias: { x: 1 } }), 400, 'logit_bias.x'],
  ['a bias of 101', chat({ logit_bias: { 5: 101 } }), 400, 'logit_bias.5'],
  [
    '301 biases',
    chat({ logit_bias: Object.fromEntries(Array.from({ length: 301 }, (_, i) => [i, 1])) }),
    400,
    'logit_bias',
  ],
  ['top_logprobs alone', chat({ top_logprobs: 2 }), 400, 'top_logprobs'],
  ['top_logprobs 21', chat({ logprobs: true, top_logprobs: 21 }), 400, 'top_logprobs'],
  ['stream_options alone', chat({ stream_options: { include_usage: true } }), 400, 'stream_options'],
  ['stream "yes"', chat({ stream: 'yes' }), 400, 'stream'],
  ['seed 1.5', chat({ seed: 1.5 }), 400, 'seed'],
  ['tools', chat({ tools: [{ type: 'function', function: { name: 'f' } }] }), 400, 'tools'],
  ['JSON mode', chat({ response_format: { type: 'json_object' } }), 400, 'response_format.type'],
  ['a misspelled parameter', chat({ temprature: 1 }), 400, 'temprature'],
  ['a chat template of its own', chat({ chat_template: '{{ 1 }}' }), 400, 'chat_template'],
  ['presence_penalty 3', chat({ presence_penalty: 3 }), 400, 'presence_penalty'],
];

describe('bad requests', () => {
  it.each(BAD)('%s', async (_, body, status, at) => {
    const reply = await ask(served, CHAT, { body });
    expect(reply.status).toBe(status);
    const { error } = reply.json();
    expect(error).toEqual({
      message: expect.any(String),
      type: 'invalid_request_error',
      param: error.param,
      code: error.code,
    });
    if (at !== null) expect([error.param, error.code]).toContain(at);
    expect(error.message).not.toMatch(/[/\\]\w+[/\\]|0x[0-9a-f]{6}|\bat \w+ \(/); // no path, no address, no stack
  });

  it.each([
    ['no prompt', {}, 'prompt'],
    ['an empty list', { prompt: [] }, 'prompt'],
    ['an id beyond the vocabulary', { prompt: [256] }, 'prompt'],
    ['a negative id', { prompt: [-1] }, 'prompt.0'],
    ['a mixed list', { prompt: [1, 'x'] }, 'prompt'],
    ['more completions than one request may have', { prompt: ['x', 'y', 'z'], n: 3 }, 'n'],
    ['best_of', { prompt: 'x', best_of: 2 }, 'best_of'],
    ['echo', { prompt: 'x', echo: true }, 'echo'],
    ['suffix', { prompt: 'x', suffix: 'y' }, 'suffix'],
    ['a prompt and an answer that do not fit', { prompt: 'x', max_tokens: 1024 }, 'prompt'],
    ['a prompt that cannot fit', { prompt: 'x'.repeat(2000) }, 'prompt'],
  ])('plain completions: %s', async (_, body, at) => {
    const reply = await ask(served, '/v1/completions', { body });
    expect(reply.status).toBe(400);
    expect(reply.json().error.param).toContain(at);
  });

  it.each(['x', [1]])('says of nine prompts that they are too many: %j', async (one) => {
    const prompt = new Array(9).fill(one);
    const said = { message: 'Expected prompt to have at most 8 elements.', param: 'prompt' };
    expect((await ask(served, '/v1/completions', { body: { prompt } })).json().error).toMatchObject(said);
  });

  it.each([
    [{ stop: ['a', 'b', 'c', 'd', 'e'] }, 'Expected stop to have at most 4 elements.'],
    [{ stop: 5 }, 'Expected stop to be of type string.'],
    [{ top_p: 0 }, 'Expected top_p to be above 0.'],
    [{ top_p: 1.5 }, 'Expected top_p to be at most 1.'],
    [{ temperature: -1 }, 'Expected temperature to be at least 0.'],
    [{ n: 9 }, 'Expected n to be at most 8.'],
    [{ foo: 1 }, 'This server does not know the parameter foo.'],
    [{ response_format: { type: 'json_object' } }, 'Expected response_format.type to be "text".'],
    [
      { messages: [{ role: 'user', content: [{ type: 'image_url' }] }] },
      'Expected messages.0.content.0.type to be "text".',
    ],
    [JSON.parse('{"logit_bias":{"__proto__":1}}'), 'Expected the names in logit_bias to be token ids.'],
    [
      { messages: [{ role: 'tool', content: 'x' }] },
      'Expected messages.0.role to be "system" or "developer" or "user" or "assistant".',
    ],
    [{ tools: [{ type: 'function', function: { name: 'f' } }] }, 'Expected no tools: this server calls none'],
  ])('says what is wrong with %o', async (more, message) => {
    expect((await ask(served, CHAT, { body: chat(more) })).json().error.message).toBe(message);
  });

  it('a parameter whose name nobody should print', async () => {
    const said = { message: 'This server does not know the parameter.', param: null };
    expect((await ask(served, CHAT, { body: chat({ 'a\nb': 1 }) })).json().error).toMatchObject(said);
  });

  it('2 MB and a byte', async () => {
    const body = JSON.stringify(chat({ user: 'x'.repeat(2 * 1024 * 1024) }));
    expect((await ask(served, CHAT, { body })).status).toBe(413);
    const head = `POST ${CHAT} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n`;
    const chunked = `${head}transfer-encoding: chunked\r\n\r\n${body.length.toString(16)}\r\n${body}\r\n0\r\n\r\n`;
    const refused = await raw(served.port, chunked, 'body_too_large');
    expect(refused).toMatch(/^HTTP\/1.1 413 /);
    expect((await ask(served, '/health')).status).toBe(200);
  });

  it.each(['content-length: 33554432', 'transfer-encoding: chunked'])(
    '32 MB, %s: who still sends hears of it',
    async (how) => {
      const head = `POST ${CHAT} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n${how}\r\n\r\n`;
      const body = 'x'.repeat(2 ** 25);
      const sent = how.startsWith('transfer') ? `${body.length.toString(16)}\r\n${body}\r\n` : body;
      const replies = await Promise.all(
        Array.from({ length: 8 }, () => raw(served.port, head + sent, 'body_too_large')),
      );
      for (const text of replies) expect(text).toMatch(/^HTTP\/1.1 413 /);
    },
  );

  it.each([
    ['GET', CHAT, 405],
    ['DELETE', '/v1/models', 405],
    ['DELETE', '/v1/models/mock', 405],
    ['POST', '/health', 405],
    ['GET', '/v1/nothing', 404],
    ['GET', '/../../etc/passwd', 404],
    ['GET', '/assets/..%2f..%2fpackage.json', 404],
    ['GET', '/v1/models/other', 404],
  ])('%s %s', async (method, path, status) => {
    const reply = await ask(served, path, { method });
    expect(reply.status).toBe(status);
    expect(reply.json().error.type).toBe('invalid_request_error');
    if (status === 405) expect(reply.headers.allow).toMatch(/GET|POST/);
  });

  it.each([
    ['headers of 17 KB', `GET /health HTTP/1.1\r\nhost: localhost\r\nx: ${'y'.repeat(17_000)}\r\n\r\n`, 431],
    ['no HTTP', 'hello there\r\n\r\n', 400],
    [
      'two lengths',
      'POST /health HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n',
      400,
    ],
    ['no Host', 'GET /health HTTP/1.1\r\nconnection: close\r\n\r\n', 400],
    ['no Host, as HTTP/1.0 allows', 'GET /health HTTP/1.0\r\n\r\n', 400],
    [
      'an odd expectation',
      'GET /health HTTP/1.1\r\nhost: localhost\r\nexpect: wonders\r\nconnection: close\r\n\r\n',
      417,
    ],
  ])('%s', async (_, head, status) => {
    const text = await raw(served.port, head);
    expect(text).toMatch(new RegExp(`^HTTP/1.1 ${status} `));
    expect(JSON.parse(/\{.*\}/.exec(text)![0]).error.message).toMatch(/^Expected/);
    expect(text).toMatch(/^content-security-policy: default-src 'none';/m);
    expect(text).toMatch(/^x-content-type-options: nosniff\r$/m);
  });

  it('CONNECT, which is for proxies', async () => {
    const text = await raw(served.port, 'CONNECT outside.example:443 HTTP/1.1\r\nhost: localhost\r\n\r\n');
    expect(text).toMatch(/^HTTP\/1.1 405 /);
    expect(JSON.parse(/\{.*\}/.exec(text)![0]).error).toMatchObject({ code: 'method_not_allowed' });
  });

  it('bodies that together are more than the server keeps while they come', async () => {
    const unfinished = Array.from({ length: 70 }, () => {
      const socket = connect(served.port, '127.0.0.1');
      socket.on('error', () => {}); // some are refused
      const head = `POST ${CHAT} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 2000001\r\n\r\n`;
      socket.write(head + 'x'.repeat(2_000_000));
      return socket;
    });
    const refused = await Promise.any(unfinished.map((socket) => once(socket, 'data').then(([data]) => String(data))));
    expect(refused).toMatch(/^HTTP\/1.1 429 [\s\S]*^retry-after: 1\r$[\s\S]*"code":"bodies_too_large"/m);
    for (const socket of unfinished) socket.destroy();
    await until(() => served.state.requestsUnderWay === 0);
    expect((await ask(served, CHAT, { body: chat({ user: 'x'.repeat(2_000_000) }) })).status).toBe(200);
  });

  it('headers and bodies that do not come', async () => {
    const hasty = await startServer(mockEngine(), { headersTimeoutMs: 300, bodyTimeoutMs: 300 });
    for (const head of [
      'GET /health HTTP/1.1\r\n',
      `POST ${CHAT} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{`,
    ]) {
      expect(await raw(hasty.port, head)).toMatch(/^HTTP\/1.1 408 /);
    }
    await hasty.close();
  });
});

describe('good requests', () => {
  it('takes what clients send beside what matters', async () => {
    const body = chat({
      model: 'mock',
      user: 'me',
      metadata: { a: 'b' },
      store: false,
      service_tier: 'auto',
      n: null,
      stop: null,
      tools: [],
      tool_choice: 'none',
      response_format: { type: 'text' },
      top_k: 5,
      min_p: 0.1,
      logit_bias: { 5: -100 },
      seed: -7,
      presence_penalty: 1,
      frequency_penalty: -2,
      max_completion_tokens: 3,
      messages: [
        { role: 'developer', content: 'a' },
        {
          role: 'user',
          content: [
            { type: 'text', text: 'b' },
            { type: 'text', text: 'c' },
          ],
          name: 'x',
        },
        { role: 'assistant', content: null, refusal: null },
        { role: 'user', content: 'd' },
      ],
    });
    const reply = await ask(served, CHAT, { body });
    expect(reply.json()).toMatchObject({
      object: 'chat.completion',
      model: 'mock',
      choices: [
        { index: 0, message: { role: 'assistant', content: 'w0 w1 w2 ' }, logprobs: null, finish_reason: 'length' },
      ],
      usage: { prompt_tokens: 7, completion_tokens: 3, total_tokens: 10 },
    });
  });

  it('streams', async () => {
    const { text, headers } = await ask(served, CHAT, {
      body: chat({ stream: true, n: 2, stream_options: { include_usage: true } }),
    });
    expect(headers['content-type']).toContain('text/event-stream');
    const all = events(text);
    expect(all.at(-1)).toBe('[DONE]');
    expect(all.at(-2)).toMatchObject({ choices: [], usage: { prompt_tokens: 5, completion_tokens: 8 } });
    for (const index of [0, 1]) {
      const own = all
        .slice(0, -2)
        .flatMap(({ choices }) => choices)
        .filter((choice) => choice.index === index);
      expect(own[0].delta).toEqual({ role: 'assistant', content: '' });
      expect(own.map(({ delta }) => delta.content ?? '').join('')).toBe('w0 w1 w2 w3 ');
      expect(own.map(({ finish_reason }) => finish_reason).filter(Boolean)).toEqual(['length']);
    }
    expect(new Set(all.slice(0, -1).map(({ id }) => id)).size).toBe(1);
  });

  it('ends at a stop string', async () => {
    const reply = await ask(served, CHAT, { body: chat({ stop: 'w2' }) });
    expect(reply.json().choices[0]).toMatchObject({ message: { content: 'w0 w1 ' }, finish_reason: 'stop' });
  });

  it('completes several prompts, of text and of ids, with log-probabilities', async () => {
    const one = (
      await ask(served, '/v1/completions', { body: { prompt: ['a', 'b'], n: 2, max_tokens: 2, logprobs: 1 } })
    ).json();
    expect(one.object).toBe('text_completion');
    expect(one.choices.map(({ index }: { index: number }) => index)).toEqual([0, 1, 2, 3]);
    expect(one.choices[3].logprobs).toEqual({
      tokens: ['\u0000', '\u0001'],
      token_logprobs: [-0.5, -0.5],
      top_logprobs: [{ '\u0001': -0.5 }, { '\u0001': -0.5 }],
      text_offset: [0, 3],
    });
    const ids = (await ask(served, '/v1/completions', { body: { prompt: [1, 2, 3] } })).json();
    expect(ids.usage).toEqual({ prompt_tokens: 3, completion_tokens: 16, total_tokens: 19 });
  });

  it('tells status, models and metrics', async () => {
    expect((await ask(served, '/api/status')).json()).toEqual({
      model: 'mock',
      backend: { name: 'portable', isa: 'none', threads: 1, detail: 'a mock' },
      precision: 'int8',
      kvCacheDtype: 'int8',
      kvKeyScales: 'token',
      contextLength: 1024,
      version: expect.any(String),
      eosToken: '</s>',
      chatTemplate: true,
      sampling: { temperature: 1, topP: 1, topK: 0, minP: 0 },
    });
    expect((await ask(served, '/v1/models')).json().data).toEqual([(await ask(served, '/v1/models/mock')).json()]);
    const { text, headers } = await ask(served, '/metrics');
    expect(headers['content-type']).toContain('text/plain');
    expect(text).toMatch(/^int_flash_completion_tokens_total [1-9]\d*$/m);
    expect(text).toMatch(/^int_flash_requests_total\{route="\/v1\/chat\/completions",outcome="400"\} [1-9]\d*$/m);
    expect(text).toMatch(/^int_flash_running_sequences 0$/m);
    expect(text).toMatch(/^int_flash_kv_cache_pages 64$/m);
    expect(text).toMatch(/^int_flash_kv_cache_pages_used 0$/m);
    expect(text).toMatch(/^int_flash_kv_cache_pages_kept 5$/m);
    expect(text).toMatch(/^int_flash_prefix_cache_hit_tokens_total 320$/m);
    expect(text).toMatch(/^int_flash_preemptions_total 7$/m);
  });

  it('says in plain text that the chat page is not built', async () => {
    const { status, text } = await ask(served, '/');
    expect(status).toBe(200);
    expect(text).toContain('npm run build');
  });
});

/** Sends bytes and reads to the end of the connection, or to a word. */
async function raw(port: number, head: string, end?: string): Promise<string> {
  const socket = connect(port, '127.0.0.1');
  socket.on('error', () => {}); // the server may have closed it already
  socket.setEncoding('utf8').setTimeout(10_000, () => socket.destroy());
  let text = '';
  socket.on('data', (chunk) => {
    text += chunk;
    if (end !== undefined && text.includes(end)) socket.destroy();
  });
  socket.write(head);
  await once(socket, 'close');
  return text;
}
