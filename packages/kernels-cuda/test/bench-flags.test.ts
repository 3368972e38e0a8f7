import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { cudaStatus } from '../src/cuda-status.js';

// `npm run bench` hands every benchmark the same arguments, those of the others among them.
describe.skipIf(cudaStatus().available)('benchmarks without a GPU', () => {
  const packages = new URL('../../../', import.meta.url);
  it.each([
    'packages/kernels-cuda/bench/decoder.bench.mjs',
    'packages/kernels-cuda/bench/decode-attention.bench.mjs',
    'packages/kernels-cuda/bench/quantize.bench.mjs',
    'apps/int-flash/bench/prompt-reuse.bench.mjs',
  ])('%s says that it was skipped', (script) => {
    const args = [fileURLToPath(new URL(script, packages)), '--peers', '--quick', '--only', 'prefill'];
    const { status, stdout, stderr } = spawnSync(process.execPath, args, { encoding: 'utf8' });
    expect(stderr).toBe('');
    expect(stdout).toContain('skipped');
    expect(status).toBe(0);
  });
});
