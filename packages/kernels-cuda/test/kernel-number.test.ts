import { afterEach, expect, it, vi } from 'vitest';
import { KERNELS, kernelNumber } from '../src/native-request.js';

afterEach(() => void vi.unstubAllEnvs());

it('asks for the kernel that was named', () => {
  vi.stubEnv('CUDA_FORCE_PTX_JIT', '');
  expect(KERNELS.map(kernelNumber)).toEqual([0, 1, 2, 3]);
});

it('leaves out Hopper’s, of which PTX has no code, where PTX is all that may run', () => {
  vi.stubEnv('CUDA_FORCE_PTX_JIT', '1');
  expect((['auto', 'portable', 'sorted'] as const).map(kernelNumber)).toEqual([1, 1, 2]);
  expect(() => kernelNumber('hopper')).toThrow(expect.objectContaining({ code: 'ERR_UNSUPPORTED' }));
});
