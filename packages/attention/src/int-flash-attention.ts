import {
  ATTENTION_OPTION_KEYS,
  type AttentionGeometry,
  type AttentionResult,
  type CausalAlignment,
  checkOptions,
  checkSignal,
  judgeAttention,
  judgeQuantizedAttention,
  type Precision,
  readArguments,
  type TensorLayout,
  type TensorLike,
} from '@int-flash/ops';
import { type BackendChoice, selectBackend } from './select-backend.js';

/** Float tensors of rank 4, or rank 3 for one sequence or varlen; see the option `tensorLayout`. */
export interface AttentionInputs {
  /** [batch, heads, queries, headDim], `float32`, `float16` or `bfloat16`. */
  readonly query: TensorLike;
  /** [batch, kvHeads, keys, headDim]. */
  readonly key: TensorLike;
  /** [batch, kvHeads, keys, headDimV]. */
  readonly value: TensorLike;
}

/** INT8 codes with the scales that `@int-flash/quant` makes. */
export interface QuantizedAttentionInputs {
  /** `int8`, laid out like `query`, `key`, `value` of {@link AttentionInputs}. */
  readonly q: TensorLike;
  readonly k: TensorLike;
  readonly v: TensorLike;
  /** float32 [batch, heads, queries]: one scale a token. */
  readonly qScale: TensorLike;
  /** float32 [batch, kvHeads, keys]. */
  readonly kScale: TensorLike;
  /** float32 [batch, kvHeads, keys], or [batch, kvHeads] for one scale a head. */
  readonly vScale: TensorLike;
  /** float32 [batch, kvHeads, headDimV]; times `vScale`. */
  readonly vChannelScale?: TensorLike;
}

/** Names and meanings as in PyTorch's scaled_dot_product_attention and in flash-attn. */
export interface AttentionSyncOptions {
  readonly isCausal?: boolean;
  /** Where the diagonal lies when there are more keys than queries: `top-left` (PyTorch, the default) or `bottom-right` (flash-attn). */
  readonly causalAlignment?: CausalAlignment;
  /** Multiplies Q·Kᵀ; 1/√headDim when absent. */
  readonly scale?: number;
  /** `bool` (1 = attend) or `float32` (added to the scores), broadcast to [batch, heads, queries, keys]. */
  readonly attnMask?: TensorLike;
  /** `HND` = [batch, heads, tokens, headDim] (default), `NHD` = [batch, tokens, heads, headDim]. */
  readonly tensorLayout?: TensorLayout;
  /** Allow fewer key/value heads than query heads; true when absent. */
  readonly enableGqa?: boolean;
  /** Keys [left, right] of the diagonal that stay visible; -1 = all. */
  readonly windowSize?: readonly [number, number];
  /** Scores become softcap · tanh(score / softcap); 0 = off. */
  readonly softcap?: number;
  /** Also return the log-sum-exp of the scores. */
  readonly returnLse?: boolean;
  readonly precision?: Precision;
  /** Subtract each key channel's mean first; true when absent. */
  readonly smoothK?: boolean;
  /** Varlen: sequence s owns queries [cuSeqlensQ[s], cuSeqlensQ[s + 1]) of [total, heads, headDim]. */
  readonly cuSeqlensQ?: Int32Array | readonly number[];
  readonly cuSeqlensK?: Int32Array | readonly number[];
  /** Accepted as in flash-attn and checked; not needed. */
  readonly maxSeqlenQ?: number;
  readonly maxSeqlenK?: number;
  readonly backend?: BackendChoice;
}

export interface AttentionOptions extends AttentionSyncOptions {
  /** Aborting rejects with `signal.reason`. */
  readonly signal?: AbortSignal;
}

/** The pre-quantized entry takes codes as they are, so there is no smoothing, and no precision without INT8 on both sides. */
export type QuantizedAttentionSyncOptions = Omit<AttentionSyncOptions, 'smoothK' | 'precision'> & {
  readonly precision?: 'full-int8' | 'paper-int8';
};
export type QuantizedAttentionOptions = QuantizedAttentionSyncOptions & { readonly signal?: AbortSignal };

export interface FloatTensor {
  readonly type: 'float32';
  readonly dims: readonly number[];
  readonly data: Float32Array;
}

export interface AttentionOutput {
  /** The query's dims and layout, contiguous, `headDimV` wide. Zeros where a query may attend no key. */
  readonly out: FloatTensor;
  /** With `returnLse`: [batch, heads, queries], or [heads, total] for varlen; natural log. -Infinity where there is no key. */
  readonly lse?: FloatTensor;
}

const SYNC_KEYS = [...ATTENTION_OPTION_KEYS, 'backend'] as const;
const ASYNC_KEYS = [...SYNC_KEYS, 'signal'] as const;

/**
 * Attention on float tensors, its products in INT8: `softmax(scale · Q·Kᵀ + mask) · V`.
 *
 * The inputs are copied before the call returns, so they may change or go away while it runs.
 * @throws {IntFlashError} As a rejection: `ERR_ARG_TYPE`, `ERR_ARG_RANGE`, `ERR_SHAPE`, `ERR_NONFINITE`, `ERR_OVERFLOW`, `ERR_BUFFER_*`,
 *   `ERR_UNSUPPORTED`, `ERR_OOM`. When aborted, `signal.reason`.
 */
export async function intFlashAttention(inputs: AttentionInputs, options?: AttentionOptions): Promise<AttentionOutput> {
  const { judged, backend, signal } = splitOptions(options, ASYNC_KEYS);
  const plan = judgeAttention(inputs, judged);
  signal?.throwIfAborted();
  return toTensors(plan, await backend.attention(plan, signal));
}

/** {@link intFlashAttention} on the calling thread. */
export function intFlashAttentionSync(inputs: AttentionInputs, options?: AttentionSyncOptions): AttentionOutput {
  const { judged, backend } = splitOptions(options, SYNC_KEYS);
  const plan = judgeAttention(inputs, judged);
  return toTensors(plan, backend.attentionSync(plan));
}

/**
 * Attention on INT8 codes the caller made: row i of `q` stands for `q[i] · qScale[i]`, of `v` for `v[j] · vScale[j] · vChannelScale`.
 *
 * @throws {IntFlashError} As {@link intFlashAttention}; scales must be finite and > 0.
 */
export async function intFlashAttentionQuantized(
  inputs: QuantizedAttentionInputs,
  options?: QuantizedAttentionOptions,
): Promise<AttentionOutput> {
  const { judged, backend, signal } = splitOptions(options, ASYNC_KEYS);
  const plan = judgeQuantizedAttention(inputs, judged);
  signal?.throwIfAborted();
  return toTensors(plan, await backend.quantizedAttention(plan, signal));
}

/** {@link intFlashAttentionQuantized} on the calling thread. */
export function intFlashAttentionQuantizedSync(
  inputs: QuantizedAttentionInputs,
  options?: QuantizedAttentionSyncOptions,
): AttentionOutput {
  const { judged, backend } = splitOptions(options, SYNC_KEYS);
  const plan = judgeQuantizedAttention(inputs, judged);
  return toTensors(plan, backend.quantizedAttentionSync(plan));
}

/** Parts what says where (`backend`, `signal`) from what says what, which the judge reads. */
function splitOptions(options: unknown, known: readonly string[]) {
  const { backend, signal, ...judged } = readArguments(() => ({ ...checkOptions(options, known, 'options') }));
  return { judged, signal: checkSignal(signal), backend: selectBackend(backend as BackendChoice | undefined) };
}

function toTensors(plan: AttentionGeometry, { out, lse }: AttentionResult): AttentionOutput {
  const outTensor: FloatTensor = { type: 'float32', dims: plan.outDims, data: out };
  return lse ? { out: outTensor, lse: { type: 'float32', dims: plan.lseDims, data: lse } } : { out: outTensor };
}
