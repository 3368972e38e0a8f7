import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { judgeAttention } from '@int-flash/ops';
import { relativeL2, softmaxAttention } from '@int-flash/reference';
import { describe, expect, it } from 'vitest';
import { cudaStatus } from '../src/cuda-status.js';
import { loadNativeAddon } from '../src/native-addon.js';
import { KERNELS } from '../src/native-request.js';

interface Outcome {
  readonly kernel?: number;
  readonly out?: number[];
  readonly code?: string;
  readonly message?: string;
}

describe.skipIf(!cudaStatus().available)('where the driver may only compile PTX', () => {
  // Hopper's kernels are empty in PTX for compute capability 8.0, and so is FP8: taking them would answer with zeros.
  it('answers by kernels that have some, and refuses Hopper’s and FP8', () => {
    const script = fileURLToPath(new URL('ptx-only.mjs', import.meta.url));
    const { path } = loadNativeAddon() as { path: string };
    const { status, stdout, stderr } = spawnSync(process.execPath, [script, path], {
      encoding: 'utf8',
      maxBuffer: 2 ** 26,
      timeout: 170_000,
      env: { ...process.env, CUDA_FORCE_PTX_JIT: '1' },
    });
    expect(stderr).toBe('');
    expect(status).toBe(0);
    const { architectures, auto, hopper, fp8, inputs } = JSON.parse(stdout) as {
      architectures: string;
      auto: Outcome;
      hopper: Outcome;
      fp8: Outcome;
      inputs: number[][];
    };
    expect(hopper).toMatchObject({ code: 'ERR_UNSUPPORTED', message: expect.stringContaining('code compiled for it') });
    expect(fp8).toMatchObject({ code: 'ERR_UNSUPPORTED', message: expect.stringContaining('for fp8, got code for') });
    if (architectures.split(' ').every((one) => one.endsWith('-real'))) {
      expect(auto).toMatchObject({ code: 'ERR_CUDA' }); // a build without PTX: nothing can run, which is said
      return;
    }
    expect(auto).toMatchObject({ kernel: KERNELS.indexOf('sorted') });
    const [query, key, value] = inputs.map((data) => ({
      type: 'float32',
      dims: [1, 2, 100, 64],
      data: Float32Array.from(data),
    }));
    const exact = softmaxAttention(judgeAttention({ query, key, value })).out;
    expect(relativeL2(auto.out!, exact)).toBeLessThan(0.02);
  }, 180_000);
});
