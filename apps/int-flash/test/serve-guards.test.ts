import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { modelFolder, runFake } from './fake-app.js';
import { mockEngine } from './mock-engine.js';
import { ask, CHAT, chat, GUARDED_ROUTES, type Served, startServer } from './serve-harness.js';

const KEY = 'Sesame-4711';
let open: Served;
let locked: Served;

beforeAll(async () => {
  open = await startServer(mockEngine());
  locked = await startServer(mockEngine(), { apiKey: KEY, allowedHosts: ['chat.example'] });
});

afterAll(async () => {
  await open.close();
  await locked.close();
});

describe('who is answered', () => {
  it.each(['127.0.0.1', 'localhost', 'localhost:8080', '[::1]:1', 'LOCALHOST'])('Host %s', async (host) => {
    expect((await ask(open, '/health', { headers: { host } })).status).toBe(200);
  });

  it.each(['evil.example', 'localhost.evil.example', '127.0.0.1.evil.example', '10.0.0.1'])(
    'not Host "%s"',
    async (host) => {
      const reply = await ask(open, '/health', { headers: { host } });
      expect(reply.status).toBe(403);
      expect(reply.json().error).toMatchObject({ type: 'invalid_request_error', code: 'host_not_allowed' });
    },
  );

  it('a name that was allowed, and on all addresses any address', async () => {
    expect((await ask(locked, '/health', { headers: { host: 'chat.example' } })).status).toBe(200);
    const everywhere = await startServer(mockEngine(), { host: '0.0.0.0', apiKey: KEY });
    expect((await ask(everywhere, '/health', { headers: { host: '192.168.1.5:80' } })).status).toBe(200);
    expect((await ask(everywhere, '/health', { headers: { host: 'evil.example' } })).status).toBe(403);
    await everywhere.close();
  });

  it('no page of another site, and nobody is told that it might be', async () => {
    for (const [name, value] of [
      ['origin', 'http://evil.example'],
      ['origin', 'null'],
      ['sec-fetch-site', 'cross-site'],
    ] as const) {
      const headers = { [name]: value };
      const reply = await ask(open, CHAT, { body: chat(), headers });
      expect(reply.status).toBe(403);
      expect(Object.keys(reply.headers).filter((name) => name.startsWith('access-control'))).toEqual([]);
    }
    const own = await ask(open, CHAT, { body: chat(), headers: { origin: `http://127.0.0.1:${open.port}` } });
    expect(own.status).toBe(200);
    const preflight = await ask(open, CHAT, { method: 'OPTIONS' });
    expect(preflight.status).toBe(405);
    const simple = await ask(open, CHAT, { body: chat(), headers: { 'content-type': 'text/plain' } });
    expect(simple.status).toBe(415);
  });
});

describe('the key', () => {
  it.each(['/', ...GUARDED_ROUTES, '/none'])('guards %s', async (path) => {
    for (const authorization of [
      undefined,
      'Bearer wrong',
      `Bearer ${KEY.toLowerCase()}`,
      `Bearer ${KEY} x`,
      KEY,
      'Basic !!',
      `Bearer ${'x'.repeat(9000)}`,
    ]) {
      const headers: Record<string, string> = authorization === undefined ? {} : { authorization };
      const reply = await ask(locked, path, { headers });
      expect(reply.status, authorization).toBe(401);
      expect(reply.json().error).toMatchObject({ type: 'authentication_error', code: 'invalid_api_key' });
      expect(reply.headers['www-authenticate']).toMatch(path === '/' ? /^Basic / : /^Bearer$/);
    }
    expect((await ask(locked, path, { headers: { authorization: `Bearer ${KEY}` } })).status).not.toBe(401);
    const basic = Buffer.from(`me:${KEY}`).toString('base64');
    expect((await ask(locked, path, { headers: { authorization: `Basic ${basic}` } })).status).not.toBe(401);
  });

  it('is not asked for at /health', async () => {
    expect((await ask(locked, '/health')).status).toBe(200);
  });

  it('must be there to listen on other than loopback addresses', async () => {
    for (const host of ['0.0.0.0', '::', '192.168.1.5']) {
      const { code, stderr } = await runFake(['serve', modelFolder(), '--host', host, '--port', '0']);
      expect(code).toBe(2);
      expect(stderr).toContain(`Expected an API key to listen on ${host}, got none`);
    }
  });
});

it.each([['my key'], ['schlüssel'], ['a\tb']])('refuses the key "%s", which no client could send', async (key) => {
  for (const [args, env] of [
    [['--api-key', key], {}],
    [[], { INT_FLASH_API_KEY: key }],
  ] as const) {
    const { code, stderr } = await runFake(['serve', modelFolder(), '--port', '0', ...args], { env });
    expect(code).toBe(2);
    expect(stderr).toContain('Expected an API key of ASCII letters, digits and punctuation');
    expect(stderr).not.toContain(key);
  }
});

it.each(['http://chat.example', 'chat.example:80', ''])(
  'refuses the name "%s", which no request could have',
  async (name) => {
    const { code, stderr } = await runFake(['serve', modelFolder(), '--port', '0', '--allowed-host', name]);
    expect(code).toBe(2);
    expect(stderr).toContain('Expected a name without scheme and port');
  },
);

it('does not take the model for a name', async () => {
  const folder = modelFolder();
  const loaded: string[] = [];
  const loadEngine = async (path: string) => {
    loaded.push(path);
    throw new Error('seen');
  };
  const names = ['--allowed-host', 'a.example', '--allowed-host', '::5'];
  await runFake(['serve', '--port', '0', ...names, folder], { runtime: { loadEngine } });
  expect(loaded).toEqual([folder]);
});

it('refuses a context that the model does not have', async () => {
  const engine = mockEngine();
  const run = runFake(['serve', modelFolder(), '--port', '0', '--context', '2000'], {
    runtime: { loadEngine: async () => engine },
  });
  expect(await run).toMatchObject({ code: 2, stdout: '' });
  expect((await run).stderr).toContain("Expected a context of at most the model's 1024 tokens, got 2000");
  expect(engine.isDisposed).toBe(true);
});

it('sends the headers that keep a page from doing harm, on everything', async () => {
  for (const path of ['/', '/health', '/none', '/v1/models']) {
    const { headers } = await ask(open, path);
    expect(headers['content-security-policy']).toBe(
      "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    );
    expect(headers['x-content-type-options']).toBe('nosniff');
  }
});
