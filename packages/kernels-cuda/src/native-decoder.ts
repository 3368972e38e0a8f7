import type { LinearHandle } from './native-addon.js';

/** Weights of a linear layer: `codes` or `packed` with `scales`, or `weights`. */
export interface NativeLinear {
  readonly rows: number;
  readonly cols: number;
  readonly codes?: Int8Array | undefined;
  readonly packed?: Uint8Array | undefined;
  /** Columns that share a scale of `packed`. */
  readonly group?: number | undefined;
  readonly scales?: Float32Array | undefined;
  readonly weights?: Float32Array | undefined;
  readonly bias?: Float32Array | undefined;
}

export interface NativeNorm {
  readonly gain: Float32Array;
  readonly bias: Float32Array | undefined;
}

/** A decoder as native/decoder_binding.cc reads it. */
export interface NativeDecoder {
  readonly hidden: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly intermediate: number;
  readonly vocabulary: number;
  readonly maxTokens: number;
  /** 0: heads are not turned. */
  readonly rotaryHalf: number;
  readonly cos: Float32Array | undefined;
  readonly sin: Float32Array | undefined;
  readonly scale: number;
  readonly epsilon: number;
  /** Layer norms. */
  readonly centered: boolean;
  /** 0 swiglu, 1 silu, 2 gelu, 3 its tanh form. */
  readonly activation: number;
  readonly embedding: Float32Array | undefined;
  readonly positions: Float32Array | undefined;
  readonly layers: readonly {
    readonly attentionNorm: NativeNorm;
    readonly mlpNorm: NativeNorm;
    readonly queryNorm: Float32Array | undefined;
    readonly keyNorm: Float32Array | undefined;
    readonly qkv: LinearHandle;
    readonly attentionOutput: LinearHandle;
    readonly mlpUp: LinearHandle;
    readonly mlpDown: LinearHandle;
    /** -1: all. */
    readonly windowLeft: number;
  }[];
  readonly outputNorm: NativeNorm;
  readonly output: LinearHandle;
}

/** What became of a sequence. */
export type NativeSequenceState = Readonly<Record<'length' | 'bytes', number>>;

/** One token each of `sequences` sequences, attention alone: see native/cache_timing.h. */
export interface CacheTimingRequest {
  readonly sequences: number;
  /** Tokens that each holds. */
  readonly length: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly int4: boolean;
  /** A block takes a run of 1,024 keys, not a tile of 128. */
  readonly runs: boolean;
  readonly repeats: number;
}
