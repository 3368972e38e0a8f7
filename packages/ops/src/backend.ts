import type { AttentionPlan, AttentionResult, QuantizedAttentionPlan } from './attention-plan.js';
import type { Decoder, DecoderLayer, DecoderMemory, DecoderMemoryShape, DecoderSpec } from './decoder.js';
import type { HostLayer, HostLayerShape } from './host-layer.js';
import type { UnavailableReason } from './int-flash-error.js';
import type { KvCacheView } from './kv-cache-view.js';

export const BACKEND_NAMES = ['cuda', 'cpu', 'portable'] as const;
/** `cuda`: NVIDIA GPU addon. `cpu`: native CPU addon. `portable`: TypeScript, runs wherever Node does. */
export type BackendName = (typeof BACKEND_NAMES)[number];

export interface BackendStatus {
  readonly name: BackendName;
  readonly available: boolean;
  /** One sentence: what it runs on, or why it cannot. */
  readonly detail: string;
  /** Set when unavailable. */
  readonly reason?: UnavailableReason;
  /** What to do about it, when unavailable. */
  readonly hint?: string;
  /** The instruction set in use, e.g. `amx-int8`, `avx512-vnni`, `avx2`, `neon`, `portable-cpp`, `typescript`; `sm_90` on CUDA. */
  readonly isa?: string;
  readonly threads?: number;
}

/** Causal attention of the last `tokens` positions of a sequence against its cache, their own keys included (bottom-right). */
export interface CacheAttentionArgs {
  /** [tokens, heads, headDim], float32, finite. */
  readonly query: Float32Array;
  readonly tokens: number;
  readonly heads: number;
  readonly cache: KvCacheView;
  /** Multiplies Q·Kᵀ; backends round it to float32. */
  readonly scale: number;
  /** Keys to the left of the diagonal that stay visible; Infinity = all. */
  readonly windowLeft: number;
  /** 0 = off. */
  readonly softcap: number;
}

/** New keys and values of one sequence, for its INT8 or INT4 cache. */
export interface CacheAppendArgs {
  /** Row t holds all heads' keys at `keyOffset + t · stride`, and their values at `valueOffset + t · stride`. */
  readonly rows: Float32Array;
  readonly tokens: number;
  readonly keyOffset: number;
  readonly valueOffset: number;
  readonly stride: number;
  /** Holds `length` tokens already, and has pages (or capacity) for the new ones. */
  readonly cache: Extract<KvCacheView, { readonly type: 'int8' | 'int4' }>;
  /** Taken from every key before it is quantized, [kvHeads, headDim]. */
  readonly keyShift: Float32Array;
  /** Per head, the largest value scale so far, 0 while all value rows were zero; kept up to date. */
  readonly largestValueScale: Float32Array;
}

/** Rotary position embedding of consecutive positions, in the half-split form: channel d turns together with channel d + half. */
export interface RotaryArgs {
  /** Heads of token t lie behind one another from `offset + t · stride` on. */
  readonly rows: Float32Array;
  readonly tokens: number;
  readonly heads: number;
  readonly headDim: number;
  readonly offset: number;
  readonly stride: number;
  /** Position of the first token. */
  readonly start: number;
  /** Half of the channels that turn; the others stay. */
  readonly half: number;
  /** Of positions from 0 on, [positions, half]. */
  readonly cos: Float32Array;
  readonly sin: Float32Array;
  /** Where turned heads go, [tokens, heads, headDim], no part of `rows`; in place when absent. */
  readonly out?: Float32Array | undefined;
}

/** Weights of y = W·x + bias; W is [rows, cols], row-major. */
export type LinearWeights = {
  readonly rows: number;
  readonly cols: number;
  readonly bias?: Float32Array | undefined;
} & (
  | { readonly type: 'fp32'; readonly weights: Float32Array }
  /** One scale a row; activations are quantized per token at run time (W8A8). */
  | { readonly type: 'int8'; readonly codes: Int8Array; readonly scales: Float32Array }
  /**
   * Weights in 4 bits: codes in [-8, 7], two a byte, low nibble first, two's complement; a scale for each `group` neighbouring columns,
   * [rows, cols / group]. The native CPU backend takes activations in INT8, a scale for each group of a token, so that its dots are
   * those of `int8`; the others keep them in float32.
   */
  | { readonly type: 'int4'; readonly packed: Uint8Array; readonly scales: Float32Array; readonly group: Int4Group }
);

/** Columns that share a scale of an INT4 weight. */
export type Int4Group = 32 | 64 | 128;

/** What a decoder does right before and after a linear layer. */
export interface LinearSteps {
  /** First, each input row becomes `gain · x / sqrt(mean(x²) + epsilon)`. */
  readonly norm?: { readonly gain: Float32Array; readonly epsilon: number } | undefined;
  /** Rows are a gate's, then an up projection's: what is left of a row is `silu(gate) · up`, half as long. */
  readonly swiglu?: boolean | undefined;
  /** Adds to what `out` holds. Not together with `swiglu`. */
  readonly accumulate?: boolean | undefined;
}

/** A linear layer whose weights the backend holds in the layout it likes best. */
export interface Linear {
  readonly rows: number;
  readonly cols: number;
  /**
   * @param input [tokens, cols], float32, finite.
   * @param out   [tokens, rows]; allocated when absent.
   */
  forwardSync(input: Float32Array, tokens: number, out?: Float32Array): Float32Array;
  /** The same with a decoder's neighbouring steps in one call, where the backend has a way that beats one after the other. */
  fusedSync?(input: Float32Array, tokens: number, out: Float32Array, steps: LinearSteps): void;
  /** Frees the weights; twice is a no-op, use afterwards throws `ERR_DISPOSED`. */
  dispose(): void;
}

/** The operations a backend implements. All of them expect judged arguments (attention-args.ts). */
export interface Backend {
  readonly name: BackendName;
  status(): BackendStatus;
  /** Copies what it needs of the caller's memory before returning the promise; rejects with `signal.reason` when aborted. */
  attention(plan: AttentionPlan, signal?: AbortSignal): Promise<AttentionResult>;
  attentionSync(plan: AttentionPlan): AttentionResult;
  quantizedAttention(plan: QuantizedAttentionPlan, signal?: AbortSignal): Promise<AttentionResult>;
  quantizedAttentionSync(plan: QuantizedAttentionPlan): AttentionResult;
  /** One layer of a decoding or prefilling step. `out` is [tokens, heads, headDim]; allocated when absent. */
  cacheAttentionSync(args: CacheAttentionArgs, out?: Float32Array): Float32Array;
  /**
   * Quantizes rows into a cache, to the bits that the runtime's own way gives, where the backend has a faster one.
   *
   * Token by token: a value row's scale is at least 2^-20 of the largest one of its head before it, for a row of zeros would underflow
   * the weights; rows of zeros at the very start get such a scale once there is a row to compare with. INT4 rows are turned by the Hadamard
   * matrix first, and may be cut off to seven steps of a scale that loses less.
   * @returns false when some row is not finite; what the cache holds past `length` is then undefined.
   */
  appendCacheSync?(args: CacheAppendArgs): boolean;
  /** Turns heads to their positions, each product and sum in float64 and the result rounded once, where the backend has a faster way. */
  rotateHeadsSync?(args: RotaryArgs): void;
  /**
   * Turns rows of `dim` by the orthonormal Hadamard matrix as `hadamardRotate` of @int-flash/quant does, where the backend has a faster way.
   *
   * @param rows [n, dim]. @param out The same; may be `rows`. @returns false when some result is not finite, which `out` holds then.
   */
  turnRowsSync?(rows: Float32Array, dim: number, out: Float32Array): boolean;
  /** Copies the weights. */
  createLinear(weights: LinearWeights): Linear;
  /**
   * A decoder's layer for a few tokens of one sequence in INT8 attention, in one call, where the backend has a way that beats one step after the other.
   *
   * @param layer Linear layers of this backend; no norms of single heads. @returns undefined for a layer that it does not run.
   */
  createHostLayer?(layer: DecoderLayer, shape: HostLayerShape): HostLayer | undefined;
  /**
   * Takes over a decoder's whole step, where the backend has memory of its own that is worth staying in. Copies all weights but the
   * linear layers'. @returns undefined for a shape that it does not run.
   */
  createDecoder?(spec: DecoderSpec): Decoder | undefined;
  /** What sequences of such a decoder will take, known before there is one; there where `createDecoder` is, and undefined where that is. */
  decoderMemory?(shape: DecoderMemoryShape): DecoderMemory | undefined;
  /** Bytes of memory outside the JS heap that live objects of this backend hold; 0 once all are disposed. */
  liveBytes(): number;
  /** Gives back to the system what it keeps of memory that was freed; there where it keeps some. Never rejects. */
  trim?(): Promise<void>;
}
