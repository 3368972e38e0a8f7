import { PassThrough } from 'node:stream';
import { selectBackend, status } from '@int-flash/attention';
import { describe, expect, it } from 'vitest';
import { main } from '../src/program.js';
import { llmRuntime } from '../src/runtime-llm.js';
import { Terminal } from '../src/terminal.js';
import { DEMO_MODEL } from './run-command.js';

// REQUIRE_CUDA=1 turns this skip into a failure (vitest.setup.ts).
const available = status().backends.some(({ name, available }) => name === 'cuda' && available);

interface Report {
  readonly backend: { readonly name: string };
  readonly attention: string;
  readonly kvCacheDtype: string;
  readonly answers: readonly { readonly text: string; readonly tokenIds: readonly number[] }[];
  readonly differenceFromFp32Attention: object;
}

/** `int-flash demo` in this process, at temperature 0. */
async function demo(backend: string): Promise<Report> {
  const streams = { stdin: new PassThrough(), stdout: new PassThrough(), stderr: new PassThrough() };
  const text = { stdout: '', stderr: '' };
  for (const name of ['stdout', 'stderr'] as const)
    streams[name].on('data', (chunk) => {
      text[name] += chunk;
    });
  const args = ['demo', '--model', DEMO_MODEL, '--json', '--temperature', '0', '--backend', backend];
  const code = await main(args, { terminal: new Terminal(streams, {}), runtime: llmRuntime, env: {} });
  expect(code, text.stderr).toBe(0);
  return JSON.parse(text.stdout) as Report;
}

describe.skipIf(!available)('demo on CUDA', () => {
  // INT8 attention over an INT8 cache has the same bits on both (docs/arithmetic.md), so no difference is too small to count.
  it('writes the CPU’s text, token by token, and is as far from fp32 attention', async () => {
    const [cuda, cpu] = [await demo('cuda'), await demo('cpu')];
    expect([cuda.backend.name, cpu.backend.name]).toEqual(['cuda', 'cpu']);
    expect(cuda).toMatchObject({ attention: 'int8', kvCacheDtype: 'int8' });
    expect(cuda.answers).toHaveLength(3);
    for (const [i, { tokenIds }] of cuda.answers.entries()) expect(tokenIds.length, `answer ${i}`).toBeGreaterThan(5);
    expect(cuda.answers).toEqual(cpu.answers);
    expect(cuda.differenceFromFp32Attention).toEqual(cpu.differenceFromFp32Attention);
    expect(selectBackend('cuda').liveBytes()).toBe(0);
  }, 120_000);
});
