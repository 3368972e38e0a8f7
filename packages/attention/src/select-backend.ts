import {
  BACKEND_NAMES,
  type Backend,
  type BackendName,
  type BackendStatus,
  checkChoice,
  checkInteger,
  checkOptions,
  IntFlashError,
  readArguments,
  readIntegerVariable,
} from '@int-flash/ops';
import { BACKEND_PROVIDERS, type BackendOptions, type BackendProvider, unavailable } from './backend-providers.js';

/** `auto` takes the first that is available of `cuda`, `cpu`, `portable`. */
export type BackendChoice = 'auto' | BackendName;
export const BACKEND_CHOICES = ['auto', ...BACKEND_NAMES] as const;
/** Environment variable that stands in for `'auto'` wherever no backend was named. */
export const BACKEND_VARIABLE = 'INT_FLASH_BACKEND';

const MAX_THREADS = 256; // the native addon's

export interface Status {
  /** Every backend, best first: whether it can run here, and if not, why and what to do. */
  readonly backends: readonly BackendStatus[];
  /** What `'auto'` stands for; undefined when {@link BACKEND_VARIABLE} names a backend that cannot run. */
  readonly chosen: BackendName | undefined;
  /** Why, in one sentence. */
  readonly why: string;
}

interface Made {
  readonly backend: Backend;
  readonly why: string;
}

// A backend may own a thread pool or a GPU context, so each is made once a process and kept.
const made = new Map<string, Backend>();

/**
 * The backend that `choice` stands for; the same object every time.
 *
 * A named backend runs or throws; it is never replaced by another. `'auto'` falls back to `portable`, which runs everywhere. The environment
 * variable `INT_FLASH_BACKEND` overrides `'auto'`, and then counts as naming a backend.
 *
 * @param options.threads Of the `cpu` backend, 1 to 256; all cores when absent.
 * @throws {IntFlashError} `ERR_UNSUPPORTED` with `reason` and `hint`; `ERR_ARG_TYPE`, `ERR_ARG_RANGE`, of `INT_FLASH_THREADS` too.
 */
export function selectBackend(choice: BackendChoice = 'auto', options: BackendOptions = {}): Backend {
  const name = checkChoice(choice, 'backend', BACKEND_CHOICES, 'auto');
  const given = readArguments(() => ({ ...checkOptions(options, ['threads'], 'options') }));
  readThreads(); // not left to the native backend: a mistyped number is no reason to do without it
  const threads = given.threads === undefined ? undefined : checkInteger(given.threads, 'threads', 1, 1, MAX_THREADS);
  const wanted = name === 'auto' ? readVariable() : name;
  return wanted === 'auto' ? chooseFirst(threads).backend : makeNamed(wanted, threads);
}

/** Which backends can run here, what `'auto'` chooses and why. Never throws for what the machine lacks, but for variables that make no sense. */
export function status(): Status {
  readThreads();
  const backends = BACKEND_PROVIDERS.map((provider) => provider.status());
  const wanted = readVariable();
  if (wanted === 'auto') {
    const { backend, why } = chooseFirst(undefined);
    return { backends, chosen: backend.name, why };
  }
  const named = backends.find((backend) => backend.name === wanted)!;
  const because = `${BACKEND_VARIABLE}=${wanted}`;
  return named.available
    ? { backends, chosen: wanted, why: `${because} asks for it.` }
    : {
        backends,
        chosen: undefined,
        why: `${because} asks for a backend that cannot run here: ${named.detail.replace(/\.$/, '')}.`,
      };
}

function readThreads(): void {
  readIntegerVariable('INT_FLASH_THREADS', 1, MAX_THREADS);
}

function readVariable(): BackendChoice {
  const value = process.env[BACKEND_VARIABLE];
  return checkChoice(
    value === '' ? undefined : value,
    `the environment variable ${BACKEND_VARIABLE}`,
    BACKEND_CHOICES,
    'auto',
  );
}

function makeNamed(name: BackendName, threads: number | undefined): Backend {
  const provider = BACKEND_PROVIDERS.find((candidate) => candidate.name === name)!;
  const current = provider.status();
  if (!current.available) throw unavailable(current);
  return make(provider, threads);
}

function chooseFirst(threads: number | undefined): Made {
  const skipped: string[] = [];
  for (const provider of BACKEND_PROVIDERS) {
    const current = provider.status();
    if (!current.available) {
      skipped.push(`${provider.name}: ${current.detail.replace(/\.$/, '')}`);
      continue;
    }
    try {
      const backend = make(provider, threads);
      const why = skipped.length === 0 ? 'It is the fastest.' : `The faster ones cannot run: ${skipped.join('; ')}.`;
      return { backend, why };
    } catch (error) {
      // It said it could and then could not; the next one may.
      skipped.push(`${provider.name}: ${IntFlashError.isInstance(error) ? error.message : 'failed to start'}`);
    }
  }
  throw new IntFlashError('ERR_UNSUPPORTED', `Expected a backend that runs here, got none: ${skipped.join('; ')}`);
}

function make(provider: BackendProvider, threads: number | undefined): Backend {
  const key = `${provider.name} ${threads ?? 'default'}`;
  const existing = made.get(key);
  if (existing) return existing;
  const backend = provider.create(threads === undefined ? {} : { threads });
  made.set(key, backend);
  return backend;
}
