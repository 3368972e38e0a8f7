import { type Decoder, type DecoderSequence, type DrawRules, IntFlashError } from '@int-flash/ops';
import type { ByteCount } from './kv-cache.js';
import type { Pace } from './pace.js';

/** Positions computed together while a prompt is read on a device: enough to fill its tensor cores … */
export const DEVICE_CHUNK = 512;
/** … and fewer where each position's logits are wanted, which take a vocabulary of floats apiece. */
const LOGITS_CHUNK = 64;

/**
 * One sequence on a backend that runs the whole decoder on its own memory; the counterpart of KvCache and the transformer's loop.
 *
 * Owned by exactly one disposable, which disposes it.
 */
export class DeviceCache {
  readonly #sequence: DecoderSequence;
  readonly #vocabSize: number;
  readonly #maxTokens: number;
  readonly #count: ByteCount;
  readonly type: 'int8' | 'int4';
  #counted = 0;
  #disposed = false;

  constructor(
    sequence: DecoderSequence,
    shape: { readonly type: 'int8' | 'int4'; readonly vocabSize: number; readonly maxTokens: number },
    count: ByteCount,
  ) {
    this.#sequence = sequence;
    this.type = shape.type;
    this.#vocabSize = shape.vocabSize;
    this.#maxTokens = shape.maxTokens;
    this.#count = count;
  }

  get length(): number {
    return this.#sequence.length;
  }

  get isDisposed(): boolean {
    return this.#disposed;
  }

  /** As {@link Transformer.forward}; the event loop is free while the device computes. */
  async forward(
    ids: readonly number[],
    { pace, chunk: givenChunk }: { readonly pace: Pace; readonly chunk?: number },
    onLogits?: (logits: Float32Array, first: number) => void,
  ): Promise<Float32Array> {
    const before = this.length;
    const chunk = givenChunk ?? (onLogits ? LOGITS_CHUNK : DEVICE_CHUNK);
    this.#expectRoom(ids.length);
    try {
      for (let first = 0; ; first += chunk) {
        const part = Int32Array.from(ids.slice(first, first + chunk));
        const logits = new Float32Array((onLogits ? part.length : 1) * this.#vocabSize);
        await this.#sequence.forward(part, logits);
        this.#recount();
        pace.throwIfAborted();
        onLogits?.(logits, first);
        if (first + chunk >= ids.length) return logits.subarray(-this.#vocabSize);
      }
    } catch (error) {
      if (!this.#disposed) this.#cutBack(before);
      throw error;
    }
  }

  /**
   * Runs one step over several, each a chunk of its tokens at most, and reads the weights once for all.
   *
   * @param parts Caches of one type.
   * @returns The logits after each one's last token.
   */
  static async forwardTogether(
    decoder: Decoder,
    parts: readonly { readonly cache: DeviceCache; readonly ids: readonly number[] }[],
    pace: Pace,
  ): Promise<Float32Array[]> {
    for (const { cache, ids } of parts) cache.#expectRoom(ids.length);
    const vocabSize = parts[0]!.cache.#vocabSize;
    const logits = new Float32Array(parts.length * vocabSize);
    const native = parts.map(({ cache, ids }) => ({ sequence: cache.#sequence, ids: Int32Array.from(ids) }));
    await decoder.forwardBatch(native, logits);
    for (const { cache } of parts) cache.#recount();
    pace.throwIfAborted();
    return parts.map((_, i) => logits.subarray(i * vocabSize, (i + 1) * vocabSize));
  }

  /** The same step, and each one's next token drawn on the device. */
  static async drawTogether(
    decoder: Decoder,
    parts: readonly { readonly cache: DeviceCache; readonly ids: readonly number[]; readonly draw: DrawRules }[],
    pace: Pace,
  ): Promise<Int32Array> {
    for (const { cache, ids } of parts) cache.#expectRoom(ids.length);
    const native = parts.map(({ cache, ids, draw }) => ({
      sequence: cache.#sequence,
      ids: Int32Array.from(ids),
      draw,
    }));
    const drawn = await decoder.drawBatch(native);
    for (const { cache } of parts) cache.#recount();
    pace.throwIfAborted();
    return drawn;
  }

  #expectRoom(tokens: number): void {
    const length = this.length + tokens;
    if (length > this.#maxTokens)
      throw new IntFlashError('ERR_SHAPE', `Expected at most ${this.#maxTokens} tokens in the cache, got ${length}`);
  }

  /** After a failure: on a device that is lost for good there is nothing to cut back, and the first error is the one to tell. */
  #cutBack(length: number): void {
    try {
      this.truncate(length);
    } catch (error) {
      if (!IntFlashError.isInstance(error)) throw error;
    }
  }

  /** Forgets all tokens from `length` on. */
  truncate(length: number): void {
    if (!Number.isInteger(length) || length < 0)
      throw new IntFlashError('ERR_ARG_RANGE', `Expected a length >= 0, got ${length}`);
    this.#sequence.truncate(length);
    this.#recount();
  }

  /** Frees the memory; twice is a no-op. */
  dispose(): void {
    if (this.#disposed) return;
    this.#disposed = true;
    this.#sequence.dispose();
    this.#recount();
  }

  #recount(): void {
    this.#count.bytes += this.#sequence.bytes - this.#counted;
    this.#counted = this.#sequence.bytes;
  }
}
