import { existsSync, readFileSync } from 'node:fs';
import { describe, expect, it, vi } from 'vitest';
import { DEMO_MODEL, runCommand } from './run-command.js';

vi.setConfig({ testTimeout: 120_000 }); // each starts Node and loads a model, on a machine that may be busy

const PORTABLE = ['--backend', 'portable'];

describe('int-flash demo', () => {
  // `auto` is the native backend where its addon was built, else the portable one.
  it.each(['auto', 'portable'])('writes text and says what ran, backend %s', async (backend) => {
    const run = await runCommand(['demo', '--backend', backend, '--max-tokens', '16']);
    expect(run).toMatchObject({ code: 0, stderr: '' });
    const [conversation, screen] = run.stdout.split('── what just ran');
    const said = screen!.replace(/\s+/g, ' '); // lines may break anywhere
    expect(conversation).toMatch(/^you {4}Hello! Who are you\?\nmodel {2}\w/);
    expect(said).toMatch(/14\.2 M parameters, int8 weights/);
    expect(said).toMatch(/INT8: Q·Kᵀ and P·V/);
    expect(said).toMatch(/tokens\/s, first token after/);
    expect(said).toMatch(/logits [\d.]+% apart/);
    expect(`── what just ran${screen}`.trimEnd().split('\n').length).toBeLessThanOrEqual(20);
    for (const line of run.stdout.split('\n')) expect(line.length).toBeLessThanOrEqual(80);
  });

  it('--json is one object with what the screen says', async () => {
    const run = await runCommand(['demo', ...PORTABLE, '--json', '--max-tokens', '16']);
    expect(run).toMatchObject({ code: 0, stderr: '' });
    const report = JSON.parse(run.stdout);
    expect(report).toMatchObject({
      model: { name: 'int-flash-demo', architecture: 'llama', parameters: 14_162_304, weights: 'int8' },
      backend: { name: 'portable', available: true, requested: 'portable', why: expect.any(String) },
      attention: 'int8',
      kvCacheDtype: 'int8',
      seed: 12,
    });
    expect(report.model.bytes).toBeLessThanOrEqual(17e6);
    expect(report.answers).toHaveLength(3);
    for (const answer of report.answers) expect(answer.text).toMatch(/\w/);
    const { relativeL2, sameGreedyToken, positions } = report.differenceFromFp32Attention;
    // Attention in INT8 is close to fp32, but it is not fp32: no difference at all would mean it did not run in INT8.
    expect(relativeL2).toBeGreaterThan(1e-5);
    expect(relativeL2).toBeLessThan(0.1);
    expect(sameGreedyToken / positions).toBeGreaterThan(0.8);
  });
});

describe('int-flash demo --web', () => {
  it('serves the chat page with the shipped model until it is told to stop', async () => {
    let seen: Promise<readonly [page: string, model: unknown]> | undefined;
    const run = await runCommand(['demo', '--web', '--json'], {
      onStdout: (soFar, child) => {
        if (seen || !soFar.includes('\n')) return;
        const { url, model } = JSON.parse(soFar);
        seen = fetch(url)
          .then(async (page) => [await page.text(), model] as const)
          .finally(() => child.kill('SIGTERM'));
      },
    });
    expect(run).toMatchObject({ code: 0, stderr: '' });
    const [page, model] = (await seen)!;
    expect(page).toContain('<div id="page">');
    expect(model).toBe('int-flash-demo');
  });

  it.each([
    ['--prompt', 'Hello'],
    ['--max-tokens', '5'],
    ['--stop', 'x'],
    ['--temperature', '0'],
  ])('does not take %s, which it would not heed', async (...choice) => {
    const run = await runCommand(['demo', '--web', ...choice]);
    expect(run.code).toBe(2);
    expect(run.stderr).toContain(`Expected ${choice[0]} or --web, got both`);
  });
});

describe('int-flash generate', () => {
  const generate = (...more: string[]) =>
    runCommand(['generate', 'Tell me a story about a king.', '--max-tokens', '24', ...more]);

  it('writes the same text for the same seed, another for another', async () => {
    const [first, again, other] = await Promise.all([
      generate('--seed', '1'),
      generate('--seed', '1'),
      generate('--seed', '2'),
    ]);
    expect(first).toMatchObject({ code: 0 });
    expect(first.stdout).toMatch(/\w+ \w+/);
    expect(again.stdout).toBe(first.stdout);
    expect(other.stdout).not.toBe(first.stdout);
  });

  it('tells a seed of its own that gives the same text again', async () => {
    const drawn = JSON.parse((await generate('--json', '--temperature', '1')).stdout);
    const again = await generate('--json', '--temperature', '1', '--seed', String(drawn.seed));
    expect(JSON.parse(again.stdout)).toMatchObject({ seed: drawn.seed, text: drawn.text });
  });

  it('keeps stdout to the text: what --json reports, and nothing else', async () => {
    const [plain, json] = await Promise.all([generate('--seed', '3'), generate('--seed', '3', '--json')]);
    expect(plain).toMatchObject({
      code: 0,
      stderr: expect.stringMatching(/^\d+ tokens · .* tokens\/s · first token after .*\n$/),
    });
    expect(plain.stdout).toBe(`${JSON.parse(json.stdout).text}\n`);
    expect(json.stderr).toBe('');
  });

  it('ends with 130 on Ctrl-C, long before its 900 tokens are written and without a word', async () => {
    let sent = false;
    // The slow backend: a busy machine may take a while to hand on the signal.
    const args = [...PORTABLE, '--raw', '--max-tokens', '900', '--seed', '1'];
    const run = await runCommand(['generate', 'Once upon a time', ...args], {
      onStdout: (soFar, child) => {
        if (!sent && soFar.length > 20) sent = child.kill('SIGINT');
      },
    });
    expect(run).toMatchObject({ code: 130, stderr: '' });
    expect(run.stdout.length).toBeLessThan(900); // a token has 3.5 characters
  });

  it('stops quietly when nobody reads its text any more', async () => {
    const run = await runCommand(['generate', 'Once upon a time', '--raw', '--max-tokens', '900', '--seed', '1'], {
      onStdout: (_, child) => child.stdout?.destroy(),
    });
    expect(run).toMatchObject({ code: 0, stderr: '' });
  });

  it.each(['hello', 'fox', 'captain', 'castle'])('follows the reference token for token in fp32: %s', async (name) => {
    const golden = JSON.parse(readFileSync(`${DEMO_MODEL}goldens/golden.json`, 'utf8'));
    const { messages, text, greedy_ids, first_end } = golden.prompts.find(
      (prompt: { name: string }) => prompt.name === name,
    );
    const prompt = messages ? [messages[0].content] : [text, '--raw'];
    const args = ['--temperature', '0', '--attention', 'fp32', '--linear', 'fp32', '--json', '--max-tokens', '64'];
    const run = await runCommand(['generate', ...prompt, ...args]);
    const length = first_end === null ? greedy_ids.length : first_end + 1;
    expect(JSON.parse(run.stdout).tokenIds).toEqual(greedy_ids.slice(0, length));
  });
});

describe('int-flash chat', () => {
  it('answers piped lines and forgets on /reset', async () => {
    const stdin = 'Hello! Who are you?\n/reset\nHello! Who are you?\n/exit\n';
    const run = await runCommand(['chat', '--temperature', '0', '--max-tokens', '24', '--quiet'], { stdin });
    expect(run).toMatchObject({ code: 0, stderr: '' });
    const [first, second] = run.stdout.split('\n');
    expect(first).toMatch(/\w/);
    expect(second).toBe(first);
  });
});

describe('int-flash doctor', () => {
  it('--json has every documented field', async () => {
    const run = await runCommand(['doctor', '--json'], {
      env: { INT_FLASH_API_KEY: 'hunter2', INT_FLASH_THREADS: '1' },
    });
    expect(run).toMatchObject({ code: 0, stderr: '' });
    expect(run.stdout).not.toContain('hunter2');
    const report = JSON.parse(run.stdout);
    expect(report).toMatchObject({
      environment: { INT_FLASH_API_KEY: '(set)', INT_FLASH_THREADS: '1' },
      versions: { 'int-flash': expect.any(String), node: process.versions.node, 'node-api': process.versions.napi },
      os: { platform: process.platform, arch: process.arch, release: expect.any(String) },
      cpu: { model: expect.any(String), logicalCores: expect.any(Number), features: expect.any(Array) },
      memory: { totalBytes: expect.any(Number), freeBytes: expect.any(Number) },
      gpu: { devices: expect.any(Array) },
      supportedIsas: expect.any(Array),
      demoModel: expect.stringContaining('int-flash-demo'),
    });
    expect(report.backends.map(({ name }: { name: string }) => name)).toEqual(
      expect.arrayContaining(['cuda', 'cpu', 'portable']),
    );
    const chosen = report.backends.find(({ name }: { name: string }) => name === report.auto.name);
    expect(chosen.available).toBe(true);
    for (const backend of report.backends) expect(backend.detail).toMatch(/\w/);
    const cpu = report.backends.find(({ name }: { name: string }) => name === 'cpu');
    expect(report.addons.filter((path: string) => existsSync(path)).length).toBe(report.addons.length);
    expect(report.addons.some((path: string) => path.endsWith('int_flash_cpu.node'))).toBe(cpu.available);
    if (cpu.available) expect(cpu.threads).toBe(1);
  });

  it('diagnoses variables that make no sense', async () => {
    const env = { INT_FLASH_BACKEND: 'zzz', INT_FLASH_THREADS: 'many' };
    const { code, stdout, stderr } = await runCommand(['doctor', '--json'], { env });
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
    const { auto, backends, environment } = JSON.parse(stdout);
    expect(environment).toMatchObject(env);
    expect(backends.find(({ name }: { name: string }) => name === 'portable').available).toBe(true);
    expect(auto.name).toBe(null);
    expect(auto.why).toMatch(/INT_FLASH_THREADS to be an integer from 1 to 256, got the string "many"/);
    expect(auto.why).toMatch(/INT_FLASH_BACKEND to be one of auto, .*, got the string "zzz"/);
  });

  it('says it in words too', async () => {
    const run = await runCommand(['doctor']);
    expect(run.code).toBe(0);
    for (const said of ['processor', 'portable', 'auto', 'demo model', process.versions.node]) {
      expect(run.stdout).toContain(said);
    }
  });
});

describe('int-flash inspect', () => {
  it('--json has every documented field', async () => {
    const run = await runCommand(['inspect', DEMO_MODEL, '--json']);
    expect(run).toMatchObject({ code: 0, stderr: '' });
    const report = JSON.parse(run.stdout);
    expect(report).toMatchObject({
      name: 'int-flash-demo',
      architecture: 'llama',
      parameters: 14_162_304,
      weights: 'int8',
      layers: 8,
      hiddenSize: 384,
      heads: 6,
      kvHeads: 2,
      headDim: 64,
      feedForwardSize: 1024,
      vocabularySize: 4096,
      contextLength: 1024,
      tiedEmbeddings: true,
      slidingWindow: null,
      chatTemplate: true,
    });
    // 2 (keys, values) · 8 layers · 2 heads · 1024 tokens, a row 64 elements and, when quantized, a float32 scale
    expect(report.kvCacheBytes).toEqual({
      fp32: 32_768 * 256,
      fp16: 32_768 * 128,
      int8: 32_768 * 68,
      int4: 32_768 * 36,
    });
    expect(report.specialTokens).toEqual(
      expect.arrayContaining([
        { id: 0, text: '<|bos|>', role: 'bos' },
        { id: 1, text: '<|end|>', role: 'eos' },
        { id: 2, text: '<|system|>' },
      ]),
    );
    const embedding = report.tensors.find(({ name }: { name: string }) => name === 'model.embed_tokens.weight');
    expect(embedding).toEqual({ name: embedding.name, dtype: 'BF16', shape: [4096, 384], bytes: 4096 * 384 * 2 });
  });

  it('says it in words too', async () => {
    const run = await runCommand(['inspect']);
    expect(run.code).toBe(0);
    for (const line of run.stdout.split('\n')) expect(line.length).toBeLessThanOrEqual(80);
    expect(run.stdout).toContain('14.2 M parameters');
    expect(run.stdout).toContain('model.layers.7.mlp.down_proj.weight');
  });
});

describe('a command that cannot do its work', () => {
  it.each([
    ['an unknown option', ['demo', '--sed', '1'], 2, /^ERR_USAGE: unknown option '--sed'/],
    ['no model there', ['demo', '--model', '/no/such/model'], 1, /^ERR_MODEL_FORMAT: .*no such folder/],
    ['no text there', ['perplexity', DEMO_MODEL, '/no/such/text'], 1, /^ENOENT: no such file.*\nhint: Check the path/],
    ['a folder for a text', ['perplexity', DEMO_MODEL, DEMO_MODEL], 2, /^ERR_USAGE: .*a folder.*\nhint: Name a file/],
    ['a GPU asked for where none is', ['generate', 'Hi', '--backend', 'cuda'], 1, /^ERR_(UNSUPPORTED|CUDA): /],
  ])('%s: one line, a hint, no stack', async (_, args, code, message) => {
    const run = await runCommand(args, { env: { CUDA_VISIBLE_DEVICES: '' } });
    expect(run).toMatchObject({ code, stdout: '' });
    expect(run.stderr).toMatch(message);
    expect(run.stderr).not.toMatch(/\n\s+at /);
    expect(run.stderr.trimEnd().split('\n').length).toBeLessThanOrEqual(2);
  });

  it('INT_FLASH_DEBUG shows the stack', async () => {
    const run = await runCommand(['demo', '--model', '/no/such/model'], { env: { INT_FLASH_DEBUG: '1' } });
    expect(run.stderr).toMatch(/\n\s+at /);
  });
});
