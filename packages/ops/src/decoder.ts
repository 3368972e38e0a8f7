import type { Linear } from './backend.js';

/** What a decoder-only transformer computes, layer by layer, and its weights; the linear layers are of the backend that is asked. */
export interface DecoderSpec {
  readonly hiddenSize: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly intermediateSize: number;
  readonly vocabSize: number;
  /** Positions that the model can tell apart. */
  readonly maxTokens: number;
  readonly norm: { readonly type: 'rms' | 'layer'; readonly epsilon: number };
  /** `swiglu`: rows of the gate, then of the up projection, in `mlpUp`; the others have an up projection alone. */
  readonly activation: 'swiglu' | 'silu' | 'gelu' | 'gelu-tanh';
  /** Multiplies Q·Kᵀ; backends round it to float32. */
  readonly scale: number;
  /** [vocabSize, hiddenSize]; undefined where the float32 weights of `output` are the same numbers. */
  readonly embedding: Float32Array | undefined;
  /** [maxTokens, hiddenSize], for learned positions. */
  readonly positions: Float32Array | undefined;
  /** Channel d of a head turns with channel d + half by the angle of [position, d]; undefined: none does. */
  readonly rotary: { readonly half: number; readonly cos: Float32Array; readonly sin: Float32Array } | undefined;
  readonly layers: readonly DecoderLayer[];
  readonly outputNorm: DecoderNorm;
  readonly output: Linear;
}

export interface DecoderNorm {
  readonly gain: Float32Array;
  readonly bias: Float32Array | undefined;
}

export interface DecoderLayer {
  readonly attentionNorm: DecoderNorm;
  /** Rows: all query heads, then all key heads, then all value heads. */
  readonly qkv: Linear;
  /** `[headDim]`: norms of each head before it is turned. */
  readonly queryNorm: Float32Array | undefined;
  readonly keyNorm: Float32Array | undefined;
  readonly attentionOutput: Linear;
  readonly mlpNorm: DecoderNorm;
  readonly mlpUp: Linear;
  readonly mlpDown: Linear;
  /** Keys to the left of a query's own that it sees; Infinity = all. */
  readonly windowLeft: number;
}

/** What decides how large a sequence's cache is. */
export interface DecoderCacheShape {
  readonly layers: number;
  readonly kvHeads: number;
  readonly headDim: number;
}

/** … and how large a step is. */
export interface DecoderMemoryShape extends DecoderCacheShape {
  readonly heads: number;
  readonly hiddenSize: number;
  readonly intermediateSize: number;
}

/**
 * What a cache's INT8 or INT4 keys have a scale for: each token, or each channel besides. The latter is a power of two that divides keys and
 * multiplies queries, frozen with a sequence's first call: for models whose keys have a few large channels.
 */
export type KeyScales = 'token' | 'channel';

/** The memory that a decoder's sequences lie in, and what they take of it. */
export interface DecoderMemory {
  /** All that the device has, whether in use or not. */
  readonly deviceBytes: number;
  /**
   * Of 64 tokens (`KV_PAGE_TOKENS`) in all layers: a cache grows by as much at a time, and gives as much back when it is cut. What a sequence
   * takes besides, whatever its length, is little against it.
   */
  readonly pageBytes: { readonly int8: number; readonly int4: number };
  /** What a step takes for each token in it, at most: it is kept for steps to come. */
  readonly tokenBytes: number;
}

/** A decoder on a backend's own memory: attention in INT8, the arithmetic of docs/arithmetic.md. */
export interface Decoder {
  /**
   * @param cacheType `int4`: keys and values rotated (quant's hadamardRotate), each row on the grid of least squared error.
   * @param keyScales `token` where nothing is said.
   */
  createSequence(cacheType: 'int8' | 'int4', keyScales?: KeyScales): DecoderSequence;
  /**
   * Runs one step over several of its sequences: weights are read once for all, and what a sequence gets does not depend on the others.
   * A failed step leaves all of them as they were.
   *
   * @param parts  Different sequences with caches of one type, each with one token or more.
   * @param logits [rows, vocabSize]: after the last token of each, or after as many as it wants.
   */
  forwardBatch(parts: readonly LogitsPart[], logits: Float32Array): Promise<void>;
  /**
   * The same step, and what follows its last tokens drawn where the logits are.
   *
   * @returns What all parts want drawn, one part after another.
   * @throws {IntFlashError} `ERR_NONFINITE`.
   */
  drawBatch(parts: readonly DrawPart[]): Promise<Int32Array>;
  /** Frees what it holds, its linear layers excepted; twice is a no-op. Sequences are disposed on their own. */
  dispose(): void;
}

/** How a token is drawn from logits: what temperature, then top-k, top-p and min-p leave of the probabilities. */
export interface DrawRules {
  /** Divides the logits; 0 = the first of the highest, and nothing below matters. */
  readonly temperature: number;
  /** Keep the k most probable; 0 = all. */
  readonly topK: number;
  /** Then the fewest whose probabilities reach p together; 1 = all. */
  readonly topP: number;
  /** Then those at least this part as probable as the most probable; 0 = all. */
  readonly minP: number;
  /** In [0, 1): where the token lies among their probabilities, the most probable first (ids in order where nothing was cut by k or p). */
  readonly uniform: number;
  /** Ids below it may be drawn. */
  readonly vocabulary: number;
}

export interface LogitsPart extends DecoderPart {
  /** Logits after so many of its last tokens; 1 where nothing is said. */
  readonly wanted?: number;
}

export interface DrawPart extends DecoderPart {
  /** One or more: so many of the part's last tokens get the token that follows drawn, the last by the last rules. */
  readonly draw: readonly DrawRules[];
}

/** A sequence's next tokens, each in [0, vocabSize). */
export interface DecoderPart {
  readonly sequence: DecoderSequence;
  readonly ids: Int32Array;
}

/** A whole page of a cache, which nobody writes any more: what sequences that begin alike may have together. */
export interface DecoderPage {
  /** Lets go of it: its memory is free when no sequence has it any more. Twice is a no-op. */
  dispose(): void;
}

/** One sequence and its cache. One call at a time. */
export interface DecoderSequence {
  readonly length: number;
  /** Of its cache, with the pages that others have too. */
  readonly bytes: number;
  /**
   * Runs `ids` behind what the cache holds; a failed run leaves it as it was.
   *
   * @param ids    Each in [0, vocabSize).
   * @param logits [ids.length, vocabSize], or [vocabSize] for those after the last token alone.
   */
  forward(ids: Int32Array, logits: Float32Array): Promise<void>;
  /**
   * Forgets all tokens from `length` on, to the bit as if they had never been there. A length inside a page that is neither among the last 64 nor
   * where the last call began, or inside a page that was shared, the cache cannot go back to: then the page's other tokens go as well, and
   * {@link length} says so.
   */
  truncate(length: number): void;
  /** Its page of tokens 64 · `index` to 64 · `index` + 63; undefined as long as tokens to come may change what it holds. */
  sharePage(index: number): DecoderPage | undefined;
  /**
   * Takes pages over from page `index` on: behind all that it has, or in place of pages that hold the same. They are of a sequence of this decoder
   * with a cache of the same type, which began with the same tokens, in calls as large as docs/site/determinism.md asks.
   */
  adoptPages(index: number, pages: readonly DecoderPage[]): void;
  /** Frees the cache; twice is a no-op. */
  dispose(): void;
}
