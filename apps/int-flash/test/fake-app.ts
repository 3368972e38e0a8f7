import { mkdtempSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { PassThrough, Transform } from 'node:stream';
import { IntFlashError } from '@int-flash/ops';
import type { App } from '../src/app.js';
import { main } from '../src/program.js';
import type { LoadSettings, Model, Prompt, Runtime, TimingRequest } from '../src/runtime.js';
import { Terminal } from '../src/terminal.js';

const VOCABULARY = 16;

export interface FakeOptions {
  /** What the model says, a token each. */
  readonly answer?: readonly string[];
  readonly chatTemplate?: boolean;
  readonly contextLength?: number;
  /** Null: it never ends. */
  readonly stdin?: string | null;
  /** Whether stderr is a terminal, as far as one is needed here. */
  readonly isTerminal?: boolean;
  /** What each write to stdout fails with. */
  readonly stdoutError?: NodeJS.ErrnoException;
  readonly env?: NodeJS.ProcessEnv;
  readonly runtime?: Partial<Runtime>;
  /** Called with each measurement that is asked for. */
  readonly onTiming?: (request: TimingRequest) => void;
  /** Called after each token, before the next. */
  readonly onToken?: (count: number) => void;
}

export interface RunResult {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
  /** Settings and prompts the runtime was called with. */
  readonly loads: readonly LoadSettings[];
  readonly prompts: readonly Prompt[];
  readonly sampling: readonly Record<string, unknown>[];
  /** Models loaded and not disposed. */
  readonly alive: number;
}

/** A folder that passes for a model, for the check that there is one. */
export function modelFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), 'int-flash-app-'));
  writeFileSync(join(folder, 'config.json'), '{}');
  return folder;
}

/** Runs one command line in this process against a model that says what the test wants. */
export async function runFake(args: readonly string[], options: FakeOptions = {}): Promise<RunResult> {
  const { stdoutError } = options;
  const stdout = stdoutError
    ? new Transform({ transform: (_chunk, _encoding, done) => done(stdoutError) })
    : new PassThrough();
  const streams = { stdin: new PassThrough(), stdout, stderr: new PassThrough() };
  const text = { stdout: '', stderr: '' };
  streams.stdout.on('data', (chunk) => {
    text.stdout += chunk;
  });
  streams.stderr.on('data', (chunk) => {
    text.stderr += chunk;
  });
  if (options.stdin !== null) streams.stdin.end(options.stdin ?? '');
  if (options.isTerminal) Object.assign(streams.stderr, { isTTY: true, columns: 80 });
  const calls = {
    loads: [] as LoadSettings[],
    prompts: [] as Prompt[],
    sampling: [] as Record<string, unknown>[],
    alive: 0,
  };

  const fakeModel = (folder: string, settings: LoadSettings): Model => ({
    facts: {
      folder,
      name: 'fake',
      architecture: 'llama',
      parameters: 14_162_304,
      bytes: 15_900_000,
      weights: 'int8',
      contextLength: options.contextLength ?? 1024,
      vocabularySize: VOCABULARY,
    },
    backend: { name: 'portable', available: true, detail: 'TypeScript', isa: 'typescript', threads: 1 },
    whyBackend: settings.backend === 'auto' ? 'nothing better is here' : 'Asked for with --backend.',
    attention: settings.attention,
    kvCacheDtype: settings.kvCacheDtype ?? settings.attention,
    kvKeyScales: settings.kvKeyScales ?? 'token',
    hasChatTemplate: options.chatTemplate ?? true,
    encode: (prompt) =>
      promptText(prompt)
        .split(' ')
        .map((_, i) => i % VOCABULARY),
    async *generate(prompt, sampling, signal) {
      calls.prompts.push(prompt);
      calls.sampling.push({ ...sampling });
      const said = (options.answer ?? ['Hello', ' there', '.']).slice(0, sampling.maxTokens);
      for (const [i, piece] of said.entries()) {
        signal.throwIfAborted();
        yield { type: 'text', text: piece, tokenId: i % VOCABULARY };
        options.onToken?.(i + 1);
      }
      yield {
        type: 'finish',
        reason: said.length === sampling.maxTokens ? 'length' : 'stop',
        seed: sampling.seed ?? 4711,
      };
    },
    logits: async (ids, { attention }) => {
      const shift = attention === 'int8' ? 0.01 : 0;
      return Float32Array.from({ length: ids.length * VOCABULARY }, (_, i) => Math.sin(i) + shift * Math.cos(7 * i));
    },
    perplexity: async (source, window) => ({
      perplexity: Math.E,
      natsPerToken: 1,
      tokens: source.length,
      predicted: source.length - Math.ceil(source.length / window),
    }),
    countSequences: async () => 3,
    sequenceBytes: async (tokens) => 1024 * tokens,
    timeGeneration: async (request) => {
      options.onTiming?.(request);
      return { promptMs: 100 * request.batch, firstTokenMs: 100, tokensPerSecond: 50 * request.batch };
    },
    kvCacheBytes: () => (settings.kvCacheDtype === 'fp32' ? 4096 : 1024),
    dispose: async () => {
      calls.alive--;
    },
  });

  const missing = async () => {
    throw new Error('not expected in this test');
  };
  const app: App = {
    terminal: new Terminal(streams, {}),
    env: options.env ?? {},
    runtime: {
      loadModel: async (folder, settings) => {
        calls.loads.push(settings);
        calls.alive++;
        settings.onProgress?.(0.5);
        return fakeModel(folder, settings);
      },
      loadRandomModel: async (name, _config, settings) => {
        calls.loads.push(settings);
        calls.alive++;
        return fakeModel(name, settings);
      },
      reproduce: async () => {
        throw new IntFlashError('ERR_UNSUPPORTED', 'Expected a library that measures, got a fake');
      },
      describeBackends: async () => ({
        backends: [{ name: 'portable', available: true, detail: 'TypeScript' }],
        auto: { name: 'portable', why: 'nothing better is here' },
        supportedIsas: [],
      }),
      loadEngine: missing,
      describeModel: missing,
      quantize: missing,
      ...options.runtime,
    },
  };
  const code = await main(args, app);
  return { code, ...text, ...calls };
}

export function promptText(prompt: Prompt): string {
  return typeof prompt === 'string' ? prompt : prompt.map(({ role, content }) => `${role}: ${content}`).join(' ');
}
