import { fileURLToPath } from 'node:url';
import { IntFlashError } from '@int-flash/ops';
import { describe, expect, it } from 'vitest';
import type { Runtime } from '../src/runtime.js';
import { modelFolder, promptText, runFake } from './fake-app.js';

const model = modelFolder();

describe('generate', () => {
  it('puts the text alone on stdout and the timing on stderr', async () => {
    const run = await runFake(['generate', 'Hi', '--model', model]);
    expect(run).toMatchObject({ code: 0, stdout: 'Hello there.\n', alive: 0 });
    expect(run.stderr).toMatch(/^3 tokens · [\d.,]+ tokens\/s · first token after \d+ ms\n$/);
  });

  it('says nothing on stderr when quiet', async () => {
    expect(await runFake(['generate', 'Hi', '--model', model, '--quiet'])).toMatchObject({
      stdout: 'Hello there.\n',
      stderr: '',
    });
  });

  it('prints one JSON object with the documented fields', async () => {
    const args = [
      'generate',
      'Hi',
      '--model',
      model,
      '--json',
      '--seed',
      '7',
      '--kv-cache-dtype',
      'int4',
      '--kv-key-scales',
      'channel',
    ];
    const run = await runFake(args);
    expect(run.stderr).toBe('');
    expect(JSON.parse(run.stdout)).toEqual({
      model: 'fake',
      backend: 'portable',
      isa: 'typescript',
      threads: 1,
      attention: 'int8',
      kvCacheDtype: 'int4',
      kvKeyScales: 'channel',
      seed: 7,
      prompt: 'Hi',
      text: 'Hello there.',
      tokenIds: [0, 1, 2],
      finishReason: 'stop',
      promptTokens: 2,
      generatedTokens: 3,
      loadMs: expect.any(Number),
      timeToFirstTokenMs: expect.any(Number),
      tokensPerSecond: expect.any(Number),
    });
  });

  it('hands the sampler only what was asked for', async () => {
    const bare = await runFake(['generate', 'Hi', '--model', model]);
    expect(bare.sampling).toEqual([{}]);
    const args = '--seed 1 --temperature 0.5 --top-k 40 --top-p 0.9 --min-p 0.05 --repeat-penalty 1.1 --max-tokens 2';
    const run = await runFake(['generate', 'Hi', '--model', model, ...args.split(' '), '--stop', 'a', '--stop', 'b']);
    expect(run.sampling).toEqual([
      {
        seed: 1,
        temperature: 0.5,
        topK: 40,
        topP: 0.9,
        minP: 0.05,
        repeatPenalty: 1.1,
        maxTokens: 2,
        stop: ['a', 'b'],
      },
    ]);
    expect(run.loads).toMatchObject([{ backend: 'auto', attention: 'int8', linear: 'auto' }]);
  });

  it.each([['generate', 'Hi'], ['chat'], ['demo'], ['perplexity', model, `${model}/config.json`], ['bench', model]])(
    'computes as it was asked to: %s',
    async (...args) => {
      const arithmetic = '--attention int8 --kv-cache-dtype int4 --kv-key-scales channel --linear fp32 --threads 1';
      const where = args.includes(model) ? [] : ['--model', model];
      const run = await runFake([...args, ...where, ...arithmetic.split(' '), '--quiet'], { stdin: '' });
      expect(run.stderr).toBe('');
      const wanted = { attention: 'int8', kvCacheDtype: 'int4', kvKeyScales: 'channel', linear: 'fp32', threads: 1 };
      expect(run.loads).toMatchObject([wanted]);
    },
  );

  it.each([
    [['generate', '-', '--model', model], /^ERR_USAGE: Expected a prompt on stdin, got nothing\n/],
    [['generate', '', '--model', model], /^ERR_USAGE: Expected a prompt, got an empty one\n/],
    [['perplexity', model, model], /^ERR_USAGE: Expected a text file, got a folder: /],
    [['perplexity', model, '/dev/null'], /^ERR_USAGE: Expected a text file, got an empty one: \/dev\/null\n/],
  ])('%j: there is nothing to read', async (args, said) => {
    const run = await runFake(args as string[]);
    expect(run).toMatchObject({ code: 2, prompts: [], alive: 0 });
    expect(run.stderr).toMatch(said);
  });

  it('says where an answer was cut', async () => {
    const run = await runFake(['generate', 'Hi', '--model', model, '--max-tokens', '2']);
    expect(run.stderr).toMatch(/ · cut at the limit \(--max-tokens, or the context\)\n$/);
  });

  it('reads the prompt from stdin, wraps it into the chat format, or leaves it raw', async () => {
    const chat = await runFake(['generate', '-', '--model', model, '--system', 'Be kind.'], { stdin: 'from stdin' });
    expect(chat.prompts).toEqual([
      [
        { role: 'system', content: 'Be kind.' },
        { role: 'user', content: 'from stdin' },
      ],
    ]);
    expect((await runFake(['generate', 'Once', '--raw', '--model', model])).prompts).toEqual(['Once']);
    expect((await runFake(['generate', 'Once', '--model', model], { chatTemplate: false })).prompts).toEqual(['Once']);
  });
});

describe('a command line that makes no sense', () => {
  it.each([
    [['generate', 'Hi', '--temprature', '1'], /^ERR_USAGE: unknown option '--temprature'.*--temperature/],
    [['generate', 'Hi', '--temperature', 'warm'], /^ERR_USAGE: .*'warm'.*Expected a number from 0 to 100/],
    [['generate', 'Hi', '--max-tokens', '0'], /^ERR_USAGE: .*Expected an integer from 1/],
    [['generate', 'Hi', '--max-tokens', '+1'], /^ERR_USAGE: .*Expected an integer from 1/],
    [['generate', 'Hi', '--seed', '1.5'], /^ERR_USAGE: .*Expected an integer/],
    [['generate', 'Hi', '--top-p', '0'], /^ERR_USAGE: .*Expected a number above 0, at most 1/],
    [['generate', 'Hi', '--backend', 'tpu'], /^ERR_USAGE: .*Allowed choices are auto, cuda, cpu, portable/],
    [['generate', 'Hi', '--stop', ''], /^ERR_USAGE: /],
    [['chat', '--kv-key-scales', 'chanel'], /^ERR_USAGE: .*'chanel'.*Allowed choices are token, channel/],
    [['serve', '--kv-key-scales'], /^ERR_USAGE: .*argument missing/],
    [['bench', '--kv', 'int8,fp16', '--kv-key-scales', 'channel'], /^ERR_USAGE: Expected caches in int8 .*got fp16/],
    [['serve', '--host', ''], /^ERR_USAGE: .*--host.*Expected a name or an address/],
    [['serve', '--model', ''], /^ERR_USAGE: .*--model.*Expected a path/],
    [['serve', ''], /^ERR_USAGE: .*'model'. Expected a path/],
    [['bench', ''], /^ERR_USAGE: .*'model'. Expected a path/],
    [['inspect', ''], /^ERR_USAGE: .*'model'. Expected a path/],
    [['perplexity', '', 'text.txt'], /^ERR_USAGE: .*'model'. Expected a path/],
    [['perplexity', 'model', ''], /^ERR_USAGE: .*'text'. Expected a path/],
    [['quantize', '', 'out'], /^ERR_USAGE: .*'in'. Expected a path/],
    [['quantize', 'in', ''], /^ERR_USAGE: .*'out'. Expected a path/],
    [['generate'], /^ERR_USAGE: missing required argument 'prompt'/],
    [['generate', 'Hi', 'there'], /^ERR_USAGE: too many arguments/],
    [['generate', 'Hi', '--raw', '--system', 'x'], /^ERR_USAGE: --raw/],
    [['generat', 'Hi'], /^ERR_USAGE: unknown command 'generat'.*generate/],
    [[], /^ERR_USAGE: Expected a command, got none/],
  ])('%j exits 2 with one line and a hint', async (args, message) => {
    const run = await runFake(args);
    expect(run).toMatchObject({ code: 2, stdout: '' });
    expect(run.stderr).toMatch(message);
    expect(run.stderr).not.toMatch(/\n\s+at /);
    expect(run.stderr.trimEnd().split('\n').length).toBeLessThanOrEqual(2);
  });

  it('--help and --version are no errors', async () => {
    const help = await runFake(['--help']);
    expect(help).toMatchObject({ code: 0, stderr: '' });
    for (const name of ['demo', 'generate', 'chat', 'doctor', 'inspect', 'quantize', 'perplexity']) {
      expect(help.stdout).toContain(`\n  ${name}`);
    }
    expect((await runFake(['--version'])).stdout).toMatch(/^\d+\.\d+\.\d+\n$/);
  });
});

describe('failures', () => {
  it('a missing model exits 1 and says what to do', async () => {
    const run = await runFake(['generate', 'Hi', '--model', '/no/such/folder']);
    expect(run).toMatchObject({ code: 1, stdout: '' });
    expect(run.stderr).toMatch(
      /^ERR_MODEL_FORMAT: Expected the model to be a folder with a config.json or a .gguf file, got no such folder: /,
    );
    expect(run.stderr).toMatch(/\nhint: /);
    const file = await runFake(['generate', 'Hi', '--model', fileURLToPath(import.meta.url)]);
    expect(file.stderr).toMatch(/^ERR_MODEL_FORMAT: .*, got another file: .*commands\.test\.ts\n/);
    const empty = await runFake(['generate', 'Hi', '--model', fileURLToPath(new URL('.', import.meta.url))]);
    expect(empty.stderr).toMatch(/, got no config\.json in it: /);
  });

  it('tells of the -- that npm wants before options', async () => {
    const hintOf = async (env: NodeJS.ProcessEnv) => (await runFake(['demo', 'Hi'], { env })).stderr.split('\n')[1];
    expect(await hintOf({ npm_lifecycle_event: 'demo' })).toMatch(/^hint: .*npm run demo -- --prompt/);
    const web = await runFake(['demo'], { env: { npm_lifecycle_event: 'demo', npm_config_web: 'true' } });
    expect(web).toMatchObject({ code: 2, stderr: expect.stringMatching(/--web behind --.*\nhint: .*demo -- --web\n/) });
    expect(await hintOf({})).toMatch(/^hint: Run int-flash --help/);
  });

  it("shows a library error's code, message and hint, harmless to the terminal", async () => {
    const error = new IntFlashError('ERR_MODEL_FORMAT', 'Expected a header,\n got \u001b[31mthis', {
      hint: 'Download it again.',
    });
    const run = await runFake(['generate', 'Hi', '--model', model], {
      runtime: { loadModel: () => Promise.reject(error) },
    });
    expect(run.code).toBe(1);
    expect(run.stderr).toBe('ERR_MODEL_FORMAT: Expected a header, got \ufffd[31mthis\nhint: Download it again.\n');
  });

  it('owns up to a fault of its own without a stack', async () => {
    const runtime = { loadModel: () => Promise.reject(new TypeError('x is not a function')) };
    const run = await runFake(['generate', 'Hi', '--model', model], { runtime });
    expect(run.code).toBe(1);
    expect(run.stderr).toMatch(/^ERR_INTERNAL: x is not a function\nhint: .*INT_FLASH_DEBUG=1.*\n$/);
  });
});

describe('stdout', () => {
  const failing = (code: string) => Object.assign(new Error(`${code}: write`), { code });

  it.each([['generate', 'Hi', '--model', model], ['chat', '--model', model], ['demo', '--model', model], ['--help']])(
    'that takes nothing, as on a full disk: %s fails',
    async (...args) => {
      const run = await runFake(args, { stdoutError: failing('ENOSPC'), stdin: 'Hi\n' });
      expect(run).toMatchObject({ code: 1, alive: 0 });
      expect(run.stderr).toMatch(/^ENOSPC: write$/m);
    },
  );

  it('that nobody reads ends the command quietly', async () => {
    const run = await runFake(['generate', 'Hi', '--model', model], { stdoutError: failing('EPIPE') });
    expect(run).toMatchObject({ code: 0, stderr: '', alive: 0 });
  });
});

describe('Ctrl-C', () => {
  it('ends an answer with exit code 130, nothing on stderr, and the model disposed', async () => {
    const onToken = (count: number) => {
      if (count === 2) process.emit('SIGINT');
    };
    const run = await runFake(['generate', 'Hi', '--model', model], { onToken });
    expect(run).toMatchObject({ code: 130, stdout: 'Hello there', stderr: '', alive: 0 });
    expect(process.listenerCount('SIGINT')).toBe(0);
  });

  it('ends a wait for the prompt', async () => {
    setTimeout(() => process.emit('SIGINT'), 10);
    const run = await runFake(['generate', '-', '--model', model], { stdin: null });
    expect(run).toMatchObject({ code: 130, stdout: '', stderr: '', alive: 0 });
  });

  it('is not the only way: SIGTERM ends work too, with exit code 143', async () => {
    const onToken = (count: number) => {
      if (count === 2) process.emit('SIGTERM', 'SIGTERM');
    };
    const run = await runFake(['generate', 'Hi', '--model', model], { onToken });
    expect(run).toMatchObject({ code: 143, stdout: 'Hello there', stderr: '', alive: 0 });
    expect(process.listenerCount('SIGTERM')).toBe(0);
  });

  it('wipes the progress bar', async () => {
    const { stderr, code } = await runFake(['quantize', model, `${model}-int8`], { runtime, isTerminal: true });
    expect(code).toBe(130);
    expect(stderr).toContain('quantizing ─');
    expect(stderr.endsWith('\u001b[1G\u001b[2K\n')).toBe(true); // to the line's beginning, and nothing left on it
  });

  const stopped = (signal: AbortSignal) =>
    new Promise<never>((_, reject) => {
      signal.addEventListener('abort', () => reject(signal.reason));
      setImmediate(() => process.emit('SIGINT'));
    });
  const runtime: Partial<Runtime> = {
    loadModel: (_, { signal }) => stopped(signal!),
    loadEngine: (_, { signal }) => stopped(signal!),
    quantize: (_from, _to, { signal }) => stopped(signal!),
    reproduce: (_, { signal }) => stopped(signal),
  };
  it.each([
    ['demo', '--model', model],
    ['perplexity', model, `${model}/config.json`],
    ['quantize', model, `${model}-int8`],
    ['bench', model],
    ['reproduce', '--out', `${model}-report`],
    ['serve', model, '--port', '0'],
    ['demo', '--web', '--model', model],
    ['chat', '--model', model],
  ])('ends %s with exit code 130, with and without --json', async (...args) => {
    for (const json of [[], ['--json']]) {
      const run = await runFake([...args, ...json], { runtime });
      expect(run).toMatchObject({ code: 130, stdout: '', stderr: '', alive: 0 });
      expect(process.listenerCount('SIGINT')).toBe(0);
    }
  });
});

describe('demo', () => {
  const answer = Array.from({ length: 60 }, (_, i) => ` word${i}`);

  it('shows three answers, then what ran, in 80 columns and at most 20 lines', async () => {
    const run = await runFake(['demo', '--model', model], { answer });
    expect(run).toMatchObject({ code: 0, stderr: '', alive: 0 });
    for (const line of run.stdout.split('\n')) expect(line.length).toBeLessThanOrEqual(80);
    const screen = run.stdout.slice(run.stdout.indexOf('── what just ran'));
    expect(screen.trimEnd().split('\n').length).toBeLessThanOrEqual(20);
    for (const said of [
      '14.2 M parameters',
      'int8 weights',
      '15.9 MB',
      'portable',
      '1 thread',
      'nothing better is here',
      'tokens/s',
      'first token after',
      'fp32 attention',
      'npm run demo --',
    ]) {
      expect(screen).toContain(said);
    }
    expect(run.stdout.match(/^you {4}/gm)).toHaveLength(3);
    expect(run.loads).toHaveLength(1);
    expect(run.sampling.map(({ seed }) => seed)).toEqual([12, 12, 12]);
  });

  it("answers the user's own prompt", async () => {
    const run = await runFake(['demo', '--model', model, '--prompt', 'Why?', '--seed', '5', '--max-tokens', '3']);
    expect(run.prompts.map(promptText)).toEqual(['user: Why?']);
    expect(run.sampling).toEqual([{ seed: 5, maxTokens: 3 }]);
    expect(run.stdout).toMatch(/^you {4}Why\?\nmodel {2}Hello there\. …\n/);
  });

  it('prints one JSON object, the difference from fp32 attention in it', async () => {
    const run = await runFake(['demo', '--model', model, '--json', '--backend', 'portable']);
    const report = JSON.parse(run.stdout);
    expect(report).toMatchObject({
      model: { name: 'fake', parameters: 14_162_304, bytes: 15_900_000, weights: 'int8' },
      backend: {
        name: 'portable',
        isa: 'typescript',
        threads: 1,
        requested: 'portable',
        why: 'Asked for with --backend.',
      },
      attention: 'int8',
      kvCacheDtype: 'int8',
      kvKeyScales: 'token',
      seed: 12,
      generatedTokens: 9,
      tokensPerSecond: expect.any(Number),
      timeToFirstTokenMs: expect.any(Number),
      loadMs: expect.any(Number),
    });
    expect(report.answers).toHaveLength(3);
    // The fake's logits are sin, and sin + 0.01 cos: rms of both waves is 1/√2, so they lie 1 % apart.
    expect(report.differenceFromFp32Attention.relativeL2).toBeCloseTo(0.01, 3);
    expect(report.differenceFromFp32Attention.maxAbsolute).toBeLessThan(0.012);
  });

  it('has no difference to show when fp32 attention itself ran', async () => {
    const run = await runFake(['demo', '--model', model, '--json', '--attention', 'fp32', '--kv-cache-dtype', 'fp32']);
    expect(JSON.parse(run.stdout).differenceFromFp32Attention).toBeNull();
    expect(run.loads).toHaveLength(1);
  });
});
