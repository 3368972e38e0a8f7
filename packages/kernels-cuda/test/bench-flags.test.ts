import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { cudaStatus } from '../src/cuda-status.js';

// `npm run bench` hands every benchmark the same arguments, those of the others among them.
describe.skipIf(cudaStatus().available)('benchmarks without a GPU', () => {
  const root = new URL('../../../', import.meta.url);
  const run = (script: string, args: readonly string[]) =>
    spawnSync(process.execPath, [fileURLToPath(new URL(script, root)), ...args], { encoding: 'utf8' });

  it.each([
    'packages/kernels-cuda/bench/decoder.bench.mjs',
    'packages/kernels-cuda/bench/decode-attention.bench.mjs',
    'packages/kernels-cuda/bench/quantize.bench.mjs',
    'apps/int-flash/bench/prompt-reuse.bench.mjs',
  ])('%s says that it was skipped', (script) => {
    const { status, stdout, stderr } = run(script, ['--peers', '--quick', '--only', 'prefill']);
    expect(stderr).toBe('');
    expect(stdout).toContain('skipped');
    expect(status).toBe(0);
  });

  const [decoder, reuse] = [
    'packages/kernels-cuda/bench/decoder.bench.mjs',
    'apps/int-flash/bench/prompt-reuse.bench.mjs',
  ];
  it.each([decoder, 'packages/kernels-cuda/bench/decode-attention.bench.mjs', reuse])(
    '%s --json prints no line',
    (script) => {
      expect(run(script, ['--json'])).toMatchObject({ status: 0, stdout: '', stderr: '' });
    },
  );

  it.each([
    [decoder, ['--models', 'nope'], '--models to be some of Llama-3.2-1B, .*; got nope'],
    [decoder, ['--models'], '--models to be some of Llama-3.2-1B, .*; got none'],
    [decoder, ['--peers', '--peer-models', 'Llama-3.1-8B,toString'], '--peer-models to be some of .*; got toString'],
    [decoder, ['--prompt', 'long'], '--prompt to be some of whole numbers from 1 on, with commas; got long'],
    [decoder, ['--batch', '1,0'], '--batch to be some of whole numbers from 1 on.*; got 0'],
    [decoder, ['--context', '-5'], '--context to be some of whole numbers from 0 on'],
    [decoder, ['--kv', 'fp16'], '--kv to be some of int8, int4, .*; got fp16'],
    [decoder, ['--weights', 'fp32'], '--weights to be some of int8, int4, .*; got fp32'],
    [decoder, ['--seconds', 'few'], '--seconds to be some of whole numbers'],
    [decoder, ['--peer-seconds', '1e9'], '--peer-seconds to be some of whole numbers'],
    [reuse, ['--models', '1B'], '--models to be some of Llama-3.2-1B, .*; got 1B'],
    [reuse, ['--prompt', '64'], '--prompt to be some of whole numbers from 65 on'],
    [reuse, ['--kv', ''], '--kv to be some of int8, int4, .*; got none'],
  ])('%s %j says what it expects', (script, args, message) => {
    const { status, stderr } = run(script, args);
    expect(stderr).toMatch(new RegExp(`Expected ${message}`));
    expect(status).toBe(1);
  });
});
