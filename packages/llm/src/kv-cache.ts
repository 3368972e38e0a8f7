import { IntFlashError, type KvCacheView } from '@int-flash/ops';
import { createKvCacheLayer, type KeyValueRows, type KvCacheDtype, type KvCacheLayer } from './kv-cache-layer.js';

export interface KvCacheShape {
  readonly layers: number;
  readonly kvHeads: number;
  readonly headDim: number;
  /** Positions that the model can tell apart; the cache never grows past it. */
  readonly maxTokens: number;
  readonly dtype: KvCacheDtype;
}

/** Counts bytes that live objects hold; 0 once all are disposed. */
export interface ByteCount {
  bytes: number;
}

const FIRST_CAPACITY = 128; // one attention tile

/**
 * Keys and values of one sequence, all layers. Grows by doubling; can be cut back to a length (rollback).
 *
 * Owned by exactly one disposable, which disposes it.
 */
export class KvCache {
  readonly shape: KvCacheShape;
  readonly #layers: KvCacheLayer[];
  readonly #lengths: number[];
  readonly #count: ByteCount;
  #capacity = 0;
  #disposed = false;

  constructor(shape: KvCacheShape, count: ByteCount = { bytes: 0 }) {
    this.shape = shape;
    this.#count = count;
    this.#layers = Array.from({ length: shape.layers }, () =>
      createKvCacheLayer(shape.dtype, shape.kvHeads, shape.headDim),
    );
    this.#lengths = this.#layers.map(() => 0);
  }

  /** Tokens that every layer holds. */
  get length(): number {
    return Math.min(...this.#lengths);
  }

  get capacity(): number {
    return this.#capacity;
  }

  get isDisposed(): boolean {
    return this.#disposed;
  }

  get bytes(): number {
    return this.#layers.reduce((sum, layer) => sum + layer.bytes, 0);
  }

  /**
   * Adds the next positions to one layer.
   *
   * @throws {IntFlashError} `ERR_DISPOSED`, `ERR_SHAPE` past `maxTokens`, `ERR_NONFINITE` from the quantizers.
   */
  append(layer: number, rows: KeyValueRows): void {
    this.#expectLive();
    const length = this.#lengths[layer]!;
    this.#reserve(length + rows.tokens);
    this.#layers[layer]!.write(rows, length);
    this.#lengths[layer] = length + rows.tokens;
  }

  /** What the backend reads; valid until the next append. */
  view(layer: number): KvCacheView {
    this.#expectLive();
    return this.#layers[layer]!.view(this.#lengths[layer]!);
  }

  /** Forgets all tokens from `length` on, in every layer. */
  truncate(length: number): void {
    this.#expectLive();
    if (!Number.isInteger(length) || length < 0)
      throw new IntFlashError('ERR_ARG_RANGE', `Expected a length >= 0, got ${length}`);
    for (let layer = 0; layer < this.#lengths.length; layer++)
      this.#lengths[layer] = Math.min(this.#lengths[layer]!, length);
  }

  /** Frees the memory; twice is a no-op. */
  dispose(): void {
    if (this.#disposed) return;
    this.#count.bytes -= this.bytes;
    this.#disposed = true;
    this.#layers.length = 0;
  }

  #reserve(tokens: number): void {
    if (tokens <= this.#capacity) return;
    const { maxTokens } = this.shape;
    if (tokens > maxTokens) {
      throw new IntFlashError('ERR_SHAPE', `Expected at most ${maxTokens} tokens in the cache, got ${tokens}`);
    }
    const before = this.bytes;
    const capacity = Math.min(Math.max(tokens, 2 * this.#capacity, FIRST_CAPACITY), maxTokens);
    this.#layers.forEach((layer, i) => {
      layer.resize(this.#lengths[i]!, capacity);
    });
    this.#capacity = capacity;
    this.#count.bytes += this.bytes - before;
  }

  #expectLive(): void {
    if (this.#disposed) throw new IntFlashError('ERR_DISPOSED', 'Expected a live KV cache, got one that was disposed');
  }
}
