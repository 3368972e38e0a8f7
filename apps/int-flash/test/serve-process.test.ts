import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { afterEach, describe, expect, it } from 'vitest';
import { DEMO_MODEL } from './run-command.js';
import { ask, CHAT, chat, events, open } from './serve-harness.js';

const CLI = fileURLToPath(new URL('../dist/cli.js', import.meta.url));
/** Longer than what a test does meanwhile, on a machine that is slow and busy, too. */
const STREAM = chat({ stream: true, max_tokens: 900, n: 8, ignore_eos: true });

interface Running {
  readonly port: number;
  readonly child: ChildProcess;
  readonly output: { stdout: string; stderr: string };
  readonly ended: Promise<{ code: number | null; signal: NodeJS.Signals | null }>;
}

const running: Running[] = [];

afterEach(() => {
  for (const { child } of running.splice(0)) child.kill('SIGKILL');
});

/** The built command as a process of its own; resolves when the model is loaded. */
async function launch(args: readonly string[] = [], env: NodeJS.ProcessEnv = {}, cwd?: string): Promise<Running> {
  const command = [process.execPath, CLI, 'serve', DEMO_MODEL, '--port', '0', '--quiet', ...args];
  // The system's own image of a process that crashed holds all its memory: that is the operator's to allow.
  const child = spawn('/bin/sh', ['-c', 'ulimit -c 0; exec "$@"', 'sh', ...command], {
    ...(cwd !== undefined && { cwd }),
    env: { ...process.env, INT_FLASH_DEBUG: '', INT_FLASH_API_KEY: '', NO_COLOR: '1', ...env },
  });
  const output = { stdout: '', stderr: '' };
  child.stderr.setEncoding('utf8').on('data', (chunk) => {
    output.stderr += chunk;
  });
  const ended = new Promise<{ code: number | null; signal: NodeJS.Signals | null }>((resolve) => {
    child.on('close', (code, signal) => resolve({ code, signal }));
  });
  const port = await new Promise<number>((resolve, reject) => {
    child.stdout.setEncoding('utf8').on('data', (chunk) => {
      output.stdout += chunk;
      const found = /http:\/\/127\.0\.0\.1:(\d+)/.exec(output.stdout);
      if (found) resolve(Number(found[1]));
    });
    void ended.then(({ code }) => reject(new Error(`ended with ${code}: ${output.stderr}`)));
  });
  const server = { port, child, output, ended };
  running.push(server);
  return server;
}

/** Starts a long stream; resolves when tokens come. */
async function stream(server: Running, body: object = STREAM): Promise<{ whole: Promise<string> }> {
  return new Promise((resolve, reject) => {
    const outgoing = open(server, CHAT, { body }, (response) => {
      let text = '';
      const whole = new Promise<string>((done) => {
        response.on('close', () => done(text));
      });
      response.on('error', () => {});
      response.setEncoding('utf8').on('data', (chunk) => {
        text += chunk;
        resolve({ whole });
      });
    });
    outgoing.on('error', reject);
  });
}

describe('the process', { timeout: 180_000 }, () => {
  it.each(['SIGTERM', 'SIGINT'] as const)('ends at %s when nothing is under way, silently', async (signal) => {
    const server = await launch();
    expect((await ask(server, CHAT, { body: chat() })).status).toBe(200);
    server.child.kill(signal);
    expect(await server.ended).toEqual({ code: 0, signal: null });
    expect(server.output.stderr).toBe('');
  });

  it('finishes what is under way, then ends', async () => {
    const server = await launch(['--drain', '120']);
    const whole = ask(server, CHAT, { body: { ...STREAM, n: 1, max_tokens: 60 } });
    await stream(server, { ...STREAM, n: 1 }).then(({ whole: other }) => {
      server.child.kill('SIGTERM');
      return other;
    });
    expect(events((await whole).text).at(-1)).toBe('[DONE]');
    expect((await server.ended).code).toBe(0);
    expect(server.output.stderr).toBe('');
  });

  it('ends streams with an error when the time to drain is over', async () => {
    const server = await launch(['--drain', '0']);
    const { whole } = await stream(server);
    const asked = performance.now();
    server.child.kill('SIGTERM');
    expect((await server.ended).code).toBe(0);
    expect(performance.now() - asked).toBeLessThan(15_000); // the promise is 2 s on idle cores: `npm run soak`
    expect(events(await whole).at(-1)).toMatchObject({ error: { code: 'shutting_down' } });
    expect(server.output.stderr).toBe('');
  });

  it('leaves at once at the second signal', async () => {
    const server = await launch(['--drain', '3600']);
    await stream(server);
    server.child.kill('SIGTERM');
    await expect.poll(() => ask(server, '/health').catch((error) => error.code)).toBe('ECONNREFUSED');
    const asked = performance.now();
    server.child.kill('SIGTERM');
    expect((await server.ended).code).toBe(143);
    expect(performance.now() - asked).toBeLessThan(15_000); // the promise is 2 s on idle cores: `npm run soak`
    expect(server.output.stderr).toBe('');
  });

  it('tells nobody what clients send', async () => {
    const canary = 'canary7f3a\u001b[31m';
    const server = await launch([], { INT_FLASH_API_KEY: `key-${canary.slice(0, 10)}` });
    const headers = { authorization: `Bearer key-${canary.slice(0, 10)}` };
    const bodies = [
      chat({ messages: [{ role: 'user', content: canary }] }),
      chat({ user: canary, model: canary }),
      chat({ [canary]: 1 }),
      chat({ stop: canary.repeat(20) }),
      `{"${canary}`,
    ];
    const replies = [];
    for (const body of bodies) replies.push(await ask(server, CHAT, { body, headers }));
    replies.push(await ask(server, `/v1/models/${canary.slice(0, 10)}`, { headers }));
    replies.push(await ask(server, '/health', { headers: { host: canary.slice(0, 10) } }));
    expect(replies.map(({ status }) => status)).toEqual([200, 404, 400, 400, 400, 404, 403]);
    for (const { text } of replies.slice(1)) expect(text).not.toContain('canary7f3a');
    const metrics = await ask(server, '/metrics', { headers });
    expect(metrics.text).toContain('process_resident_memory_bytes');
    server.child.kill('SIGTERM');
    await server.ended;
    for (const text of [metrics.text, server.output.stdout, server.output.stderr])
      expect(text).not.toContain('canary7f3a');
  });

  it.each([
    ['an error that nobody catches', "throw new Error('on purpose')", { code: 1, signal: null }, 'on purpose'],
    [
      'the end of its memory',
      'for (const all = []; ; ) all.push(Array.from({ length: 1e5 }, Math.random))',
      { code: null, signal: 'SIGABRT' },
      'heap out of memory',
    ],
  ])('tells nobody at its crash what clients sent: %s', async (_, crash, end, said) => {
    const canary = 'canary7f3a';
    const folder = mkdtempSync(join(tmpdir(), 'int-flash-crash-'));
    try {
      const program = join(folder, 'crash.mjs');
      writeFileSync(program, `process.on('SIGUSR2', () => { ${crash} });`);
      // With Node's own reports, which operators may ask for: a file in the working directory.
      const reports = '--report-uncaught-exception --report-on-fatalerror';
      const options = `--import ${pathToFileURL(program)} --max-old-space-size=64 ${reports}`;
      const server = await launch([], { NODE_OPTIONS: options }, folder);
      const messages = [{ role: 'user', content: canary }];
      const streamed = await stream(server, {
        ...STREAM,
        n: 1,
        messages,
        user: canary,
        metadata: { [canary]: canary },
      });
      const whole = ask(server, CHAT, { body: { ...STREAM, stream: false, messages } }).catch((error) => error.code);
      await expect
        .poll(async () => Number(/running_sequences (\d+)/.exec((await ask(server, '/metrics')).text)?.[1]))
        .toBeGreaterThan(1);
      server.child.kill('SIGUSR2');
      expect(await server.ended).toEqual(end);
      expect(await streamed.whole).not.toContain('[DONE]');
      expect(await whole).toBe('ECONNRESET');
      expect(server.output.stderr).toContain(said);
      const left = readdirSync(folder).filter((name) => name !== 'crash.mjs');
      expect(left).toEqual([expect.stringMatching(/^report\..*\.json$/)]);
      const texts = left.map((name) => readFileSync(join(folder, name), 'utf8'));
      for (const text of [server.output.stdout, server.output.stderr, ...texts]) expect(text).not.toContain(canary);
    } finally {
      rmSync(folder, { recursive: true });
    }
  });

  it('says in one line why it cannot listen', async () => {
    const server = await launch();
    await expect(launch(['--port', String(server.port)])).rejects.toThrow(/ended with 1: EADDRINUSE/);
  });
});
