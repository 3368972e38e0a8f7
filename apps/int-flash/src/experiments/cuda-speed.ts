import type { CudaAttentionInputs, CudaAttentionResult, CudaDevice } from '@int-flash/kernels-cuda';
import { fromFloat32, IntFlashError } from '@int-flash/ops';
import { makeInputs } from '@int-flash/reference';
import type { OnProgress } from '../progress-bar.js';
import { loadCudaPackage } from './cuda-package.js';
import {
  SPEED_KEYS,
  SPEED_VARIANTS,
  type SpeedRow,
  type SpeedSettings,
  type SpeedTable,
  type SpeedVariant,
} from './speed-table.js';

const BATCH = 4; // the paper's shape: batch 4, 32 heads, head dimension 64
const HEADS = 32;
const REPEATS = 20;

/** The float kernels to compare with, where the GPU package has them: float16, and FP8 e4m3 with a scale a head. */
interface Baselines {
  baselineAttention?(
    inputs: CudaAttentionInputs,
    baseline: 'fp16' | 'fp8',
    options: { readonly repeats: number; readonly signal: AbortSignal },
  ): Promise<CudaAttentionResult>;
}

/** Times the kernels alone on operands that lie on the GPU, as the paper does, with its batch and heads. */
export async function cudaSpeed({ headDim, signal }: SpeedSettings, onProgress: OnProgress): Promise<SpeedTable> {
  const { openCudaDevice } = loadCudaPackage();
  await using device = openCudaDevice();
  const rows: SpeedRow[] = [];
  for (const [step, keys] of SPEED_KEYS.entries()) {
    const { query, key, value } = makeInputs('normal', { heads: 1, queries: keys, keys, headDim });
    const inputs = {
      query: await device.upload(everyHead(query)),
      key: await device.upload(everyHead(key)),
      value: await device.upload(everyHead(value)),
    };
    try {
      for (const variant of SPEED_VARIANTS) {
        signal.throwIfAborted();
        rows.push({ keys, variant, ...(await timeForward(device, inputs, variant, signal)) });
      }
    } finally {
      for (const tensor of Object.values(inputs)) tensor.dispose();
    }
    onProgress(4 ** (step + 1 - SPEED_KEYS.length));
  }
  return {
    device: `${device.name}, ${device.isa}`,
    baselineType: 'fp16',
    baseline: "this project's FP16 kernel on tensor cores",
    timed: `the forward kernel alone, inputs quantized before: median of ${REPEATS} runs by CUDA events`,
    batch: BATCH,
    heads: HEADS,
    headDim,
    rows,
  };
}

async function timeForward(
  device: CudaDevice & Baselines,
  inputs: CudaAttentionInputs,
  variant: SpeedVariant,
  signal: AbortSignal,
): Promise<{ ms: number | null; note?: string }> {
  const options = { repeats: REPEATS, signal };
  const none = { ms: null, note: `this GPU, or this version of its package, has no ${variant} kernel` };
  try {
    const isBaseline = variant === 'fp16' || variant === 'fp8';
    if (isBaseline && !device.baselineAttention) return none;
    const { out, forwardMs } = isBaseline
      ? await device.baselineAttention!(inputs, variant, options)
      : await device.attention(inputs, { precision: variant, ...options });
    out.dispose();
    const times = [...forwardMs].sort((a, b) => a - b);
    return { ms: times[times.length >> 1]! };
  } catch (error) {
    const missing = IntFlashError.isInstance(error) && ['ERR_ARG_RANGE', 'ERR_UNSUPPORTED'].includes(error.code);
    if (!missing) throw error;
    return none;
  }
}

/** The numbers of one head for all of them, in float16: a time does not depend on them, and drawing them all would take minutes. */
function everyHead({ dims, data }: { readonly dims: readonly number[]; readonly data: Float32Array }) {
  const [, , tokens, headDim] = dims as readonly [number, number, number, number];
  const one = fromFloat32(data, 'float16') as Uint16Array;
  const all = new Uint16Array(one.length * BATCH * HEADS);
  for (let head = 0; head < BATCH * HEADS; head++) all.set(one, head * one.length);
  return { type: 'float16' as const, dims: [BATCH, HEADS, tokens, headDim], data: all };
}
