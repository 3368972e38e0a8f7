import type { FloatType } from './float-formats.js';

/**
 * How attention is computed. Error figures and the exact arithmetic: docs/arithmetic.md.
 * - `full-int8` (default): smooth-K, both products in INT8, P as u8 against each 128-key tile's own maximum, token-level V.
 * - `half-int8`: smooth-K, INT8 Q·Kᵀ, P and V in float (V rounded to float16).
 * - `paper-int8`: INT-FlashAttention as published (arXiv 2409.16997): P as round(127·p) against the running maximum, V per tensor.
 * - `int4-qk`: `full-int8` with Q and K in [-7, 7]. Loses much on noise-like inputs; meant for smoothed or trained ones.
 * - `fp32`: float32 throughout, the baseline the others are measured against.
 */
export const PRECISIONS = ['full-int8', 'half-int8', 'paper-int8', 'int4-qk', 'fp32'] as const;
export type Precision = (typeof PRECISIONS)[number];

/** `HND` = [batch, heads, tokens, headDim] (PyTorch); `NHD` = [batch, tokens, heads, headDim] (flash-attn). */
export type TensorLayout = 'HND' | 'NHD';

/** Where the diagonal lies when the two lengths differ: PyTorch aligns causal masks top-left, flash-attn bottom-right. */
export type CausalAlignment = 'top-left' | 'bottom-right';

/** Rows of one sequence: queries [qStart, qStart + qLen), keys [kStart, kStart + kLen), counted along the token axis. */
export interface SequenceSpan {
  readonly qStart: number;
  readonly qLen: number;
  readonly kStart: number;
  readonly kLen: number;
}

/** Elements from one batch entry, head or token to the next. The head dimension itself is contiguous. */
export interface RowStrides {
  readonly batch: number;
  readonly head: number;
  readonly token: number;
}

/** A judged float operand: row (b, h, n) starts at element `b·batch + h·head + n·token` of `data`. */
export interface FloatOperand {
  readonly type: FloatType;
  /** float32 values, or the bits of 16-bit floats. */
  readonly data: Float32Array | Uint16Array;
  readonly strides: RowStrides;
}

/** A judged INT8 operand, addressed like {@link FloatOperand}. */
export interface CodeOperand {
  readonly data: Int8Array;
  readonly strides: RowStrides;
}

/** A mask over scores, broadcast by zero strides. Bool: 1 = attend. Float: added to the scaled score, -Infinity = never attend. */
export interface MaskOperand {
  readonly type: 'bool' | 'float32';
  readonly data: Uint8Array | Float32Array;
  readonly strides: { readonly batch: number; readonly head: number; readonly query: number; readonly key: number };
}

/**
 * Everything but the numbers: shapes, mask, scale. What a backend receives has been judged, so a backend re-checks only
 * what could corrupt memory.
 *
 * Query i may attend key j exactly when `i + d - windowLeft <= j <= i + d + windowRight`, with d = 0 (top-left) or
 * kLen - qLen (bottom-right), and the mask, if any, allows it. Causal means windowRight = 0; no window means Infinity.
 */
export interface AttentionGeometry {
  readonly heads: number;
  /** Divides `heads`; query head h reads key/value head floor(h / (heads / kvHeads)). */
  readonly kvHeads: number;
  /** Of Q and K; a multiple of 8 in [8, 256]. */
  readonly headDim: number;
  /** Of V and the output; a multiple of 8 in [8, 256]. */
  readonly headDimV: number;
  /** One entry a batch member. In varlen calls all batch strides are 0. */
  readonly sequences: readonly SequenceSpan[];
  /** Multiplies Q·Kᵀ; 1 / sqrt(headDim) unless the caller said otherwise. */
  readonly scale: number;
  /** Scores become `softcap · tanh(score / softcap)`; 0 = off. */
  readonly softcap: number;
  readonly windowLeft: number;
  readonly windowRight: number;
  readonly diagonal: CausalAlignment;
  readonly mask: MaskOperand | undefined;
  readonly returnLse: boolean;
  /** The output has the query's layout, contiguous, float32, `headDimV` wide. */
  readonly outDims: readonly number[];
  readonly outStrides: RowStrides;
  /** [batch, heads, queries], or [heads, totalQueries] for varlen; token stride 1. */
  readonly lseDims: readonly number[];
  readonly lseStrides: RowStrides;
}

/** Attention on float inputs: the backend quantizes, as `precision` says. */
export interface AttentionPlan extends AttentionGeometry {
  readonly precision: Precision;
  /** Subtract each key channel's mean over the tokens first: exact under softmax, and INT8 keeps more of the rest. */
  readonly smoothK: boolean;
  readonly query: FloatOperand;
  readonly key: FloatOperand;
  readonly value: FloatOperand;
}

/** Q and K as INT8 codes the caller made. Query row r stands for `codes · qScale[r]`, and so on. */
interface CodedScores extends AttentionGeometry {
  readonly query: CodeOperand;
  readonly key: CodeOperand;
  /** Scales are addressed with their own strides, in elements. */
  readonly queryScale: { readonly data: Float32Array; readonly strides: RowStrides };
  readonly keyScale: { readonly data: Float32Array; readonly strides: RowStrides };
}

/** `half-int8` on codes: V stays float. */
export interface HalfQuantizedAttentionPlan extends CodedScores {
  readonly precision: 'half-int8';
  readonly value: FloatOperand;
}

/** Attention on codes of all three. */
export interface QuantizedAttentionPlan extends CodedScores {
  readonly precision: 'full-int8' | 'paper-int8';
  readonly value: CodeOperand;
  /** Per token, or per head when the token stride is 0. v = code · valueScale · valueChannelScale. */
  readonly valueScale: { readonly data: Float32Array; readonly strides: RowStrides };
  /** Per channel, [.., headDimV] contiguous at (batch, head); absent = 1. */
  readonly valueChannelScale: { readonly data: Float32Array; readonly strides: RowStrides } | undefined;
}

export interface AttentionResult {
  /** Shape `outDims`. A query that may attend no key yields zeros … */
  readonly out: Float32Array;
  /** … and a log-sum-exp of -Infinity. Natural log, of the scaled, capped and masked scores. Shape `lseDims`. */
  readonly lse?: Float32Array;
}
