import { cpuStatus, createCpuBackend, createPortableBackend } from '@int-flash/kernels-cpu';
import { createCudaBackend, cudaStatus } from '@int-flash/kernels-cuda';
import { type Backend, type BackendName, type BackendStatus, IntFlashError } from '@int-flash/ops';

export interface BackendOptions {
  /** Threads of the `cpu` backend; the others have none of their own. */
  readonly threads?: number;
}

/** One way to get a backend. `status()` never throws; `create()` throws `ERR_UNSUPPORTED` where the status says unavailable. */
export interface BackendProvider {
  readonly name: BackendName;
  status(): BackendStatus;
  create(options: BackendOptions): Backend;
}

/** The order is that of preference: 'auto' takes the first that is available. */
export const BACKEND_PROVIDERS: readonly BackendProvider[] = [
  {
    name: 'cuda',
    status: () => cudaStatus(),
    create: () => createCudaBackend(),
  },
  {
    name: 'cpu',
    status: cpuStatus,
    create: ({ threads }) => createCpuBackend(threads === undefined ? {} : { threads }),
  },
  {
    name: 'portable',
    status: () => createPortableBackend().status(),
    create: () => createPortableBackend(),
  },
];

/** What a named backend that cannot run throws. */
export function unavailable(status: BackendStatus): IntFlashError {
  const { reason, hint } = status;
  return new IntFlashError(
    'ERR_UNSUPPORTED',
    `Expected backend ${status.name} to be available, got: ${status.detail}`,
    {
      ...(reason === undefined ? {} : { reason }),
      ...(hint === undefined ? {} : { hint }),
    },
  );
}
