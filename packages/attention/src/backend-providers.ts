import { createRequire } from 'node:module';
import { cpuStatus, createCpuBackend, createPortableBackend } from '@int-flash/kernels-cpu';
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

interface CudaPackage {
  createCudaBackend(): Backend;
  cudaStatus(): BackendStatus;
}

/** The order is that of preference: 'auto' takes the first that is available. */
export const BACKEND_PROVIDERS: readonly BackendProvider[] = [
  {
    name: 'cuda',
    status: () => {
      const found = findCudaPackage();
      return 'missing' in found ? found.missing : found.cuda.cudaStatus();
    },
    create: () => {
      const found = findCudaPackage();
      if ('missing' in found) throw unavailable(found.missing);
      return found.cuda.createCudaBackend();
    },
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

// The CUDA package is optional, so that nobody without a GPU installs it: it is looked for only when it is asked for.
const requireOptional = createRequire(import.meta.url);
let cudaPackage: { readonly cuda: CudaPackage } | { readonly missing: BackendStatus } | undefined;

function findCudaPackage() {
  cudaPackage ??= loadCudaPackage();
  return cudaPackage;
}

function loadCudaPackage(): { readonly cuda: CudaPackage } | { readonly missing: BackendStatus } {
  const missing = { name: 'cuda', available: false } as const;
  try {
    const cuda = requireOptional('@int-flash/kernels-cuda') as Partial<CudaPackage>;
    if (cuda.createCudaBackend && cuda.cudaStatus) return { cuda: cuda as CudaPackage };
    return {
      missing: {
        ...missing,
        detail: 'this version of @int-flash/kernels-cuda provides no backend',
        reason: 'addon-not-installed',
        hint: 'Install @int-flash/kernels-cuda in the version of @int-flash/attention.',
      },
    };
  } catch (error) {
    const code = (error as { code?: unknown } | null)?.code;
    if (code === 'MODULE_NOT_FOUND') {
      return {
        missing: {
          ...missing,
          detail: '@int-flash/kernels-cuda is not installed',
          reason: 'addon-not-installed',
          hint: 'On a machine with an NVIDIA GPU: npm install @int-flash/kernels-cuda.',
        },
      };
    }
    return {
      missing: {
        ...missing,
        detail: `@int-flash/kernels-cuda did not load (${typeof code === 'string' ? code : 'unknown error'})`,
        reason: 'addon-load-failed',
        hint: 'Reinstall @int-flash/kernels-cuda.',
      },
    };
  }
}
