import { availableParallelism } from 'node:os';
import {
  type AttentionPlan,
  type AttentionResult,
  arrayLength,
  type Backend,
  type BackendStatus,
  type CacheAppendArgs,
  type CacheAttentionArgs,
  checkChoice,
  checkInteger,
  checkOptions,
  type DecoderLayer,
  type HostLayer,
  type HostLayerShape,
  hostArray,
  hostArrayOf,
  type IntFlashError,
  type Linear,
  type LinearWeights,
  noHostMemory,
  type QuantizedAttentionPlan,
  type RotaryArgs,
  readIntegerVariable,
} from '@int-flash/ops';
import { CpuLayer } from './cpu-layer.js';
import { CpuLinear } from './cpu-linear.js';
import { LESS_AT_ONCE } from './less-at-once.js';
import { type NativeAddon, nativeAddon } from './native-addon.js';
import { typedError } from './native-error.js';
import {
  APPEND_PARAMETERS,
  AttentionParameters,
  appendParameters,
  attentionArguments,
  CACHE_PARAMETERS,
  cacheParameters,
  type Placement,
} from './native-parameters.js';

const MAX_THREADS = 256;
const MAX_ASYNC_LENGTH = 2 ** 32; // of an array that an asynchronous call makes: native/attention_binding.cc

export interface CpuBackendOptions {
  /** One of {@link supportedIsas}; the best one when absent. */
  readonly isa?: string;
  /** Threads a call may use, 1 to 256. Default: INT_FLASH_THREADS, else the cores this process may use. */
  readonly threads?: number;
}

/** Instruction sets the native addon can run on this machine, best first; empty when there is no addon. */
export function supportedIsas(): string[] {
  try {
    return nativeAddon().supportedIsas();
  } catch {
    return [];
  }
}

/** Whether the native addon runs here, on what, and if not why. Never throws. */
export function cpuStatus(): BackendStatus {
  try {
    return createCpuBackend().status();
  } catch (error) {
    const { message, reason, hint } = error as IntFlashError;
    return { name: 'cpu', available: false, detail: message, ...(reason && { reason }), ...(hint && { hint }) };
  }
}

/**
 * The native CPU backend. Calls run on the addon's own threads, never on libuv's.
 *
 * @throws {IntFlashError} `ERR_UNSUPPORTED` when the addon is absent or does not load; `ERR_ARG_*` for bad options.
 */
export function createCpuBackend(options?: CpuBackendOptions): Backend {
  const given = checkOptions(options, ['isa', 'threads'], 'options');
  const addon = nativeAddon();
  const isas = addon.supportedIsas();
  const name = checkChoice(given.isa, 'isa', isas, isas[0]!);
  const threads = checkInteger(given.threads, 'threads', defaultThreads(), 1, MAX_THREADS);
  return new CpuBackend(addon, name, { isa: isas.indexOf(name), threads });
}

function defaultThreads(): number {
  return readIntegerVariable('INT_FLASH_THREADS', 1, MAX_THREADS) ?? Math.min(availableParallelism(), MAX_THREADS);
}

let lastCall = 0; // names calls in flight to the addon

class CpuBackend implements Backend {
  readonly name = 'cpu';
  readonly #addon: NativeAddon;
  readonly #isa: string;
  readonly #placement: Placement;
  readonly #attentionParameters = new AttentionParameters();
  readonly #cacheParameters = new Float64Array(CACHE_PARAMETERS);
  readonly #appendParameters = new Float64Array(APPEND_PARAMETERS);

  constructor(addon: NativeAddon, isa: string, placement: Placement) {
    this.#addon = addon;
    this.#isa = isa;
    this.#placement = placement;
  }

  status(): BackendStatus {
    const { threads } = this.#placement;
    const detail = `native addon, ${this.#isa}, ${threads} thread${threads === 1 ? '' : 's'}`;
    return { name: 'cpu', available: true, detail, isa: this.#isa, threads };
  }

  attention(plan: AttentionPlan, signal?: AbortSignal): Promise<AttentionResult> {
    return this.#run(plan, signal);
  }

  quantizedAttention(plan: QuantizedAttentionPlan, signal?: AbortSignal): Promise<AttentionResult> {
    return this.#run(plan, signal);
  }

  attentionSync(plan: AttentionPlan): AttentionResult {
    return this.#runSync(plan);
  }

  quantizedAttentionSync(plan: QuantizedAttentionPlan): AttentionResult {
    return this.#runSync(plan);
  }

  cacheAttentionSync(args: CacheAttentionArgs, out?: Float32Array): Float32Array {
    const { cache, query } = args;
    const result = out ?? hostArray(Float32Array, arrayLength(query, 'query'), 'the answer');
    const parameters = cacheParameters(args, this.#placement, this.#cacheParameters);
    try {
      this.#addon.cacheAttention(
        parameters,
        query,
        cache.keys,
        cache.values,
        'keyScales' in cache ? cache.keyScales : undefined,
        'valueScales' in cache ? cache.valueScales : undefined,
        result,
        cache.pages,
      );
    } catch (error) {
      throw typedError(error);
    }
    return result;
  }

  appendCacheSync(args: CacheAppendArgs): boolean {
    const { cache } = args;
    const parameters = appendParameters(args, this.#placement, this.#appendParameters);
    try {
      return this.#addon.appendCache(
        parameters,
        args.rows,
        cache.keys,
        cache.values,
        cache.keyScales,
        cache.valueScales,
        args.keyShift,
        args.largestValueScale,
        cache.pages,
      );
    } catch (error) {
      throw typedError(error);
    }
  }

  rotateHeadsSync(args: RotaryArgs): void {
    const { tokens, heads, headDim, half, offset, stride, start, rows, cos, sin, out } = args;
    const parameters = Float64Array.of(this.#placement.isa, tokens, heads, headDim, half, offset, stride, start);
    try {
      this.#addon.rotateHeads(parameters, rows, cos, sin, out);
    } catch (error) {
      throw typedError(error);
    }
  }

  turnRowsSync(rows: Float32Array, dim: number, out: Float32Array): boolean {
    try {
      const { isa, threads } = this.#placement;
      return this.#addon.turnRows(Float64Array.of(isa, threads, dim), rows, out);
    } catch (error) {
      throw typedError(error);
    }
  }

  createLinear(weights: LinearWeights): Linear {
    return new CpuLinear(this.#addon, weights, this.#placement);
  }

  createHostLayer(layer: DecoderLayer, shape: HostLayerShape): HostLayer | undefined {
    return CpuLayer.create(this.#addon, layer, shape, this.#placement);
  }

  liveBytes(): number {
    return this.#addon.liveBytes();
  }

  #runSync(plan: AttentionPlan | QuantizedAttentionPlan): AttentionResult {
    const out = uncleared(product(plan.outDims));
    const lse = plan.returnLse ? hostArrayOf(Float32Array, plan.lseDims, 'lse', LESS_AT_ONCE) : undefined;
    try {
      this.#addon.attention(...attentionArguments(plan, this.#placement, this.#attentionParameters), out, lse);
    } catch (error) {
      throw typedError(error);
    }
    return lse ? { out, lse } : { out };
  }

  async #run(plan: AttentionPlan | QuantizedAttentionPlan, signal: AbortSignal | undefined): Promise<AttentionResult> {
    signal?.throwIfAborted();
    lastCall += 1;
    const id = lastCall;
    const abort = () => this.#addon.abort(id);
    signal?.addEventListener('abort', abort, { once: true });
    try {
      const outLength = expectAddonHolds(product(plan.outDims), 'the answer');
      const lseLength = plan.returnLse ? expectAddonHolds(product(plan.lseDims), 'lse') : -1;
      const args = attentionArguments(plan, this.#placement, this.#attentionParameters);
      return await this.#addon.attentionAsync(id, ...args, outLength, lseLength);
    } catch (error) {
      if ((error as { code?: unknown }).code === 'ERR_ABORTED' && signal?.aborted) throw signal.reason;
      throw typedError(error);
    } finally {
      signal?.removeEventListener('abort', abort);
    }
  }
}

/** The addon writes every element before anybody sees one, and clearing a large output takes as long as quantizing the input. */
function uncleared(length: number): Float32Array {
  const bytes = 4 * length;
  if (bytes < 2 ** 18 || bytes > 2 ** 31) return hostArray(Float32Array, length, 'the answer', LESS_AT_ONCE);
  try {
    return new Float32Array(Buffer.allocUnsafeSlow(bytes).buffer);
  } catch (cause) {
    throw noHostMemory(bytes, 'the answer', { cause, hint: LESS_AT_ONCE });
  }
}

/** @returns `length`. */
function expectAddonHolds(length: number, what: string): number {
  if (length > MAX_ASYNC_LENGTH) throw noHostMemory(4 * length, what, { hint: LESS_AT_ONCE });
  return length;
}

function product(dims: readonly number[]): number {
  return dims.reduce((total, dim) => total * dim, 1);
}
