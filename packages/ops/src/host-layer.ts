import type { KvCacheView } from './kv-cache-view.js';

/** What all layers of a decoder have in common whose norms are RMS, whose MLPs are gated by silu, and whose heads turn with their positions. */
export interface HostLayerShape {
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  /** Multiplies Q·Kᵀ; backends round it to float32. */
  readonly scale: number;
  /** Of the norms. */
  readonly epsilon: number;
  /** Channel d of a head turns with channel d + half. */
  readonly half: number;
}

/** A few tokens of one sequence on their way through a layer. */
export interface HostLayerStep {
  /** [tokens, hiddenSize]; changed in place. */
  readonly hidden: Float32Array;
  readonly tokens: number;
  /** Where queries, keys and values go, [tokens, (heads + 2 · kvHeads) · headDim]. */
  readonly rows: Float32Array;
  /** Of positions from 0 to the last token's or further, [positions, half]. */
  readonly cos: Float32Array;
  readonly sin: Float32Array;
  /** Holds the tokens before, `length` of them, and has pages (or capacity) for these. */
  readonly cache: Extract<KvCacheView, { readonly type: 'int8' | 'int4' }>;
  /** As `CacheAppendArgs` has them. */
  readonly keyShift: Float32Array;
  readonly largestValueScale: Float32Array;
}

/** A layer that a backend computes in one call, to the bits of its steps one after the other. */
export interface HostLayer {
  /**
   * @returns false when some key or value is not finite: those are in `rows`, and `hidden` is as it was. Then, and when it throws, what the cache holds past
   *   `length` is undefined, and largest scales may be those of rows that are not there.
   */
  stepSync(step: HostLayerStep): boolean;
  /** Not the linear layers; twice is a no-op, use afterwards throws `ERR_DISPOSED`. */
  dispose(): void;
}
