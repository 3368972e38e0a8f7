import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { IntFlashError } from '@int-flash/ops';

/** What native/addon.cc exports. Arrays must be plain; numbers travel in `parameters` (native-parameters.ts). */
export interface NativeAddon {
  /** Instruction sets this machine can run, best first. Their indices are the `isa` parameter. */
  supportedIsas(): string[];
  /** Bytes that live layers and calls of this JavaScript thread hold. */
  liveBytes(): number;
  /** Writes `out` and `lse`. Returns a checksum of all int32 accumulators when the parameters ask for it. */
  attention(...args: readonly unknown[]): string | undefined;
  attentionAsync(id: number, ...args: readonly unknown[]): Promise<{ out: Float32Array; lse?: Float32Array }>;
  /** The call rejects with code ERR_ABORTED at its next tile; unknown ids are ignored. */
  abort(id: number): void;
  cacheAttention(...args: readonly unknown[]): void;
  /** Heads of `[isa, tokens, heads, headDim, half, offset, stride, start]` turned to their positions; in place without `out`. */
  rotateHeads(
    parameters: Float64Array,
    rows: Float32Array,
    cos: Float32Array,
    sin: Float32Array,
    out: Float32Array | undefined,
  ): void;
  /** Rows of `[isa, threads, dim]` turned by the Hadamard matrix, into `out`, which may be `rows`. False when some result is not finite. */
  turnRows(parameters: Float64Array, rows: Float32Array, out: Float32Array): boolean;
  /** False when some row is not finite. */
  appendCache(...args: readonly unknown[]): boolean;
  createLinear(
    parameters: Float64Array,
    weights: Float32Array | Int8Array | Uint8Array,
    scales: Float32Array | undefined,
    bias: Float32Array | undefined,
  ): object;
  linearForward(
    handle: object,
    input: Float32Array,
    tokens: number,
    out: Float32Array,
    flags: number,
    normGain: Float32Array | undefined,
    epsilon: number,
  ): void;
  disposeLinear(handle: object): void;
  /** `[isa, threads, heads, kvHeads, headDim, half, scale, epsilon, windowLeft]`, four linear layers' handles, two norms' gains. */
  createLayer(parameters: Float64Array, ...parts: readonly unknown[]): object;
  /** Of `[tokens, int4, capacity, length]`. False when some key or value is not finite. */
  layerForward(handle: object, parameters: Float64Array, ...arrays: readonly unknown[]): boolean;
  disposeLayer(handle: object): void;
  /** Dot-product operations a second that `[isa, threads]` can do on registers alone; benchmarks only. */
  measurePeak(parameters: Float64Array): number;
  /** Reads all bytes of the arrays once, on `[isa, threads]`; benchmarks only. */
  readArrays(parameters: Float64Array, ...arrays: readonly (Int8Array | Uint8Array | Float32Array)[]): number;
}

// A bundle in CommonJS has no import.meta: there the program stands for this module, with the node_modules that lie beside it.
const home = import.meta.url ?? pathToFileURL(process.argv[1] ?? join(process.cwd(), 'program')).href;
const require = createRequire(home);
const packageRoot = join(dirname(fileURLToPath(home)), '..'); // from src/ and from dist/ alike

// Literals, for tools that follow createRequire. Bundlers do not, and that is as well: they could not put a .node file into what they write.
const platformPackages: Record<string, () => unknown> = {
  'linux-x64': () => require('@int-flash/kernels-cpu-linux-x64'),
  'linux-arm64': () => require('@int-flash/kernels-cpu-linux-arm64'),
  'darwin-arm64': () => require('@int-flash/kernels-cpu-darwin-arm64'),
  'darwin-x64': () => require('@int-flash/kernels-cpu-darwin-x64'),
  'win32-x64': () => require('@int-flash/kernels-cpu-win32-x64'),
};

type Loaded = { readonly addon: NativeAddon } | { readonly error: IntFlashError };
let loaded: Loaded | undefined;

/**
 * Loads the addon once: INTFLASH_ADDON_PATH, else build/Release, else the platform package.
 *
 * @throws {IntFlashError} `ERR_UNSUPPORTED` with reason `addon-not-installed` or `addon-load-failed`; `cause` is an AggregateError
 *   of every attempt. The same error each time.
 */
export function nativeAddon(): NativeAddon {
  loaded ??= load();
  if ('error' in loaded) throw loaded.error;
  return loaded.addon;
}

function load(): Loaded {
  const platform = `${process.platform}-${process.arch}`;
  const override = process.env.INTFLASH_ADDON_PATH || undefined; // empty counts as not set, as everywhere
  const local = join(packageRoot, 'build', 'Release', 'int_flash_cpu.node');
  const attempts: [present: boolean, load: () => unknown][] = override
    ? [[true, () => require(override)]] // named by hand: anything else would hide a wrong path
    : [
        [existsSync(local), () => require(local)],
        [true, platformPackages[platform] ?? (() => missing(`No prebuilt package for ${platform}`))],
      ];
  const causes: unknown[] = [];
  let failedToLoad = false;
  for (const [present, attempt] of attempts) {
    if (!present) {
      causes.push(new Error(`Nothing at ${local}`));
      continue;
    }
    try {
      return { addon: attempt() as NativeAddon };
    } catch (error) {
      causes.push(error);
      failedToLoad ||= (error as NodeJS.ErrnoException).code !== 'MODULE_NOT_FOUND' || override !== undefined;
    }
  }
  const error = new IntFlashError(
    'ERR_UNSUPPORTED',
    `Expected a native CPU addon for ${platform}, got ${failedToLoad ? 'one that does not load' : 'none'}`,
    {
      reason: failedToLoad ? 'addon-load-failed' : 'addon-not-installed',
      hint: 'Build it with `npm run build` (needs cmake and a C++17 compiler), or use the portable backend.',
      cause: new AggregateError(causes, causes.map((cause) => (cause as Error).message).join('; ')),
    },
  );
  return { error };
}

function missing(message: string): never {
  throw Object.assign(new Error(message), { code: 'MODULE_NOT_FOUND' });
}
