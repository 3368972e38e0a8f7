import { createRequire } from 'node:module';

/** The package that attention found, wherever it lies: not everybody has it, so this command depends on none. */
export function loadCudaPackage(): typeof import('@int-flash/kernels-cuda') {
  const requireAsAttention = createRequire(import.meta.resolve('@int-flash/attention'));
  return requireAsAttention('@int-flash/kernels-cuda');
}
