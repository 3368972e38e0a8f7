import {
  type AttentionResult,
  type Backend,
  type CacheAttentionArgs,
  checkChoice,
  checkOptions,
  type FlatCacheView,
  flatCache,
  hostArray,
  IntFlashError,
  readArguments,
} from '@int-flash/ops';
import { unpackInt4 } from '@int-flash/quant';
import { createCudaDecoder } from './cuda-decoder.js';
import { CudaLinear } from './cuda-linear.js';
import { cudaStatus, unusableGpu } from './cuda-status.js';
import { decoderMemory } from './decoder-memory.js';
import {
  type DeviceHandle,
  loadNativeAddon,
  type NativeAddon,
  type NativeOperand,
  type NativeRequest,
} from './native-addon.js';
import { callNative, withAbortFlag } from './native-error.js';
import { type CudaKernel, hostCodesRequest, hostRequest, KERNELS, TYPE_NUMBERS } from './native-request.js';

const LESS_AT_ONCE =
  'Ask for fewer sequences, heads or queries at a time, or leave the answer on the GPU (openCudaDevice).';

/**
 * Attention and linear layers on the first NVIDIA GPU, for data in host memory: each call copies its inputs there and its output back.
 * Weights stay on the GPU. Other data that stays there goes through `openCudaDevice` instead.
 *
 * `kernel` as in `CudaAttentionOptions`, of `attention` and of `quantizedAttention`, whose codes `hopper` and `sorted` do not take. Attention on a KV cache is
 * the portable kernel's, whatever is named.
 * @throws {IntFlashError} `ERR_UNSUPPORTED` with `reason` where no GPU can be used.
 */
export function createCudaBackend(options: { readonly kernel?: CudaKernel } = {}): Backend {
  const kernel = readArguments(() =>
    checkChoice(checkOptions(options, ['kernel'], 'options').kernel, 'kernel', KERNELS, 'auto'),
  );
  const status = cudaStatus();
  const { addon } = loadNativeAddon();
  if (!addon || !status.available) throw unusableGpu(status);
  const device = callNative(() => addon.openDevice(0));
  const { totalBytes } = addon.deviceFacts(device);
  return {
    name: 'cuda',
    status: () => cudaStatus(),
    attention: async (plan, signal) => attend(addon, device, hostRequest(plan, kernel), signal),
    attentionSync: (plan) => attendSync(addon, device, hostRequest(plan, kernel)),
    quantizedAttention: async (plan, signal) => attend(addon, device, hostCodesRequest(plan, kernel), signal),
    quantizedAttentionSync: (plan) => attendSync(addon, device, hostCodesRequest(plan, kernel)),
    cacheAttentionSync: (args, out) => attendSync(addon, device, cacheRequest(args), out).out,
    createLinear: (weights) => new CudaLinear(addon, device, weights),
    createDecoder: (spec) => createCudaDecoder(addon, device, spec),
    decoderMemory: (shape) => decoderMemory(totalBytes, shape),
    liveBytes: () => addon.liveBytes(device),
    trim: () =>
      addon.memory(device).then(
        () => {},
        () => {}, // a device that is lost has nothing to give back
      ),
  };
}

/** Memory for the answer, into which the worker thread copies it. @throws {IntFlashError} `ERR_OOM` with `where: 'host'`. */
function withTargets(request: NativeRequest, given?: Float32Array) {
  const { outElements, lseElements, returnLse } = request;
  const out = given ?? hostArray(Float32Array, outElements, 'the answer', LESS_AT_ONCE);
  return { ...request, out, lse: returnLse ? hostArray(Float32Array, lseElements, 'lse', LESS_AT_ONCE) : undefined };
}

function resultOf({ out, lse }: { out: Float32Array; lse: Float32Array | undefined }): AttentionResult {
  return lse ? { out, lse } : { out };
}

async function attend(
  addon: NativeAddon,
  device: DeviceHandle,
  request: NativeRequest,
  signal?: AbortSignal,
): Promise<AttentionResult> {
  const full = withTargets(request);
  await withAbortFlag(addon, signal, (abortFlag) => addon.attention(device, { ...full, abortFlag }));
  return resultOf(full);
}

function attendSync(
  addon: NativeAddon,
  device: DeviceHandle,
  request: NativeRequest,
  out?: Float32Array,
): AttentionResult {
  const full = withTargets(request, out);
  callNative(() => addon.attentionSync(device, full));
  return resultOf(full);
}

/** The last `tokens` positions against their cache. The cache lives in host memory, so its used part travels on every call. */
function cacheRequest(args: CacheAttentionArgs): NativeRequest {
  const { query, tokens, heads, scale, windowLeft, softcap } = args;
  const cache = flatCache(args.cache);
  const { kvHeads, headDim, length } = cache;
  if (query.length !== tokens * heads * headDim || tokens > length || length > cache.capacity) {
    throw new IntFlashError(
      'ERR_SHAPE',
      `Expected query [${tokens}, ${heads}, ${headDim}] within ${length} cached tokens, got ${query.length} elements`,
    );
  }
  const rows = { batch: 0, head: headDim, token: heads * headDim };
  const { keys, values } = cacheOperands(cache);
  return {
    precision: cache.type === 'fp32' ? 4 : 0,
    smoothK: false,
    heads,
    kvHeads,
    headDim,
    headDimV: headDim,
    sequences: Float64Array.of(0, tokens, 0, length),
    scale: Math.fround(scale),
    softcap,
    windowLeft,
    windowRight: 0,
    bottomRight: true,
    query: { type: TYPE_NUMBERS.float32, data: query, strides: rows },
    key: keys,
    value: values,
    outStrides: rows,
    lseStrides: { batch: 0, head: tokens, token: 1 },
    outElements: query.length,
    lseElements: 0,
    returnLse: false,
  };
}

function cacheOperands(cache: FlatCacheView): { keys: NativeOperand; values: NativeOperand } {
  const { kvHeads, capacity, headDim, length } = cache;
  const strides = { batch: 0, head: length * headDim, token: headDim };
  const scaleStrides = { batch: 0, head: length, token: 1 };
  /** [kvHeads, capacity, width] → [kvHeads, length, width]. */
  const used = <T extends Float32Array | Int8Array | Uint8Array>(all: T, width: number): T => {
    if (all.length < kvHeads * capacity * width)
      throw new IntFlashError(
        'ERR_SHAPE',
        `Expected a cache of ${kvHeads * capacity * width} elements, got ${all.length}`,
      );
    const part = new (all.constructor as new (count: number) => T)(kvHeads * length * width);
    for (let h = 0; h < kvHeads; h++)
      part.set(all.subarray(h * capacity * width, (h * capacity + length) * width) as never, h * length * width);
    return part;
  };
  if (cache.type === 'fp32') {
    const operand = (data: Float32Array): NativeOperand => ({
      type: TYPE_NUMBERS.float32,
      data: used(data, headDim),
      strides,
    });
    return { keys: operand(cache.keys), values: operand(cache.values) };
  }
  const codes = (data: Int8Array | Uint8Array) =>
    cache.type === 'int8'
      ? used(data, headDim)
      : unpackInt4(used(data as Uint8Array, headDim / 2), kvHeads * length * headDim);
  const operand = (data: Int8Array | Uint8Array, scales: Float32Array): NativeOperand => ({
    type: TYPE_NUMBERS.int8,
    data: codes(data),
    strides,
    scale: used(scales, 1),
    scaleStrides,
  });
  return { keys: operand(cache.keys, cache.keyScales), values: operand(cache.values, cache.valueScales) };
}
