import { type Decoder, type DecoderSequence, type DrawRules, IntFlashError } from '@int-flash/ops';
import { CallHistory } from './call-history.js';
import type { DevicePages } from './device-pages.js';
import type { Pace } from './pace.js';
import { pagesOf } from './page-limit.js';
import type { PagedSequence } from './paged-sequence.js';

/** Positions computed together while a prompt is read on a device: enough to fill its tensor cores … */
const DEVICE_CHUNK = 512;
/** … and fewer where each position's logits are wanted, which take a vocabulary of floats apiece. */
const LOGITS_CHUNK = 64;

/** Ways of storing keys and values that a decoder on a device has. */
export type DeviceDtype = 'int8' | 'int4';

export interface DeviceCacheShape {
  readonly dtype: DeviceDtype;
  readonly vocabSize: number;
  /** It never grows past it. */
  readonly maxTokens: number;
}

/**
 * One sequence on a backend that runs the whole decoder on its own memory; the counterpart of KvCache and the transformer's loop. There is
 * nothing of it on the device while it holds no page.
 *
 * Owned by exactly one disposable, which disposes it.
 */
export class DeviceCache implements PagedSequence {
  readonly chunk = DEVICE_CHUNK;
  readonly canDraw = true;
  /** Cut back, the device does not forget how large values were. */
  readonly isExact = false;
  readonly pool: DevicePages;
  readonly #decoder: Decoder;
  readonly #shape: DeviceCacheShape;
  readonly #history = new CallHistory();
  #sequence: DecoderSequence | undefined;
  #pageCount = 0;
  /** Bytes of it that the pool counts. */
  #counted = 0;
  #disposed = false;

  constructor(decoder: Decoder, pool: DevicePages, shape: DeviceCacheShape) {
    this.#decoder = decoder;
    this.pool = pool;
    this.#shape = shape;
  }

  get dtype(): DeviceDtype {
    return this.#shape.dtype;
  }

  get length(): number {
    return this.#sequence?.length ?? 0;
  }

  get history(): readonly number[] {
    return this.#history.ids;
  }

  get pageCount(): number {
    return this.#pageCount;
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
    const { vocabSize } = this.#shape;
    try {
      const sequence = this.#open(ids.length);
      for (let first = 0; ; first += chunk) {
        const part = Int32Array.from(ids.slice(first, first + chunk));
        const logits = new Float32Array((onLogits ? part.length : 1) * vocabSize);
        await sequence.forward(part, logits);
        this.#recount();
        pace.throwIfAborted();
        onLogits?.(logits, first);
        if (first + chunk >= ids.length) return logits.subarray(-vocabSize);
      }
    } catch (error) {
      if (!this.#disposed) this.truncate(before);
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
    const { vocabSize } = parts[0]!.cache.#shape;
    const logits = new Float32Array(parts.length * vocabSize);
    const native = parts.map(({ cache, ids }) => ({ sequence: cache.#open(ids.length), ids: Int32Array.from(ids) }));
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
    const native = parts.map(({ cache, ids, draw }) => ({
      sequence: cache.#open(ids.length),
      ids: Int32Array.from(ids),
      draw,
    }));
    const drawn = await decoder.drawBatch(native);
    for (const { cache } of parts) cache.#recount();
    pace.throwIfAborted();
    return drawn;
  }

  pagesFor(tokens: number): number {
    return pagesOf(this.length + tokens) - this.#pageCount;
  }

  reserve(tokens: number): boolean {
    this.#expectLive();
    const length = this.length + tokens;
    const { maxTokens } = this.#shape;
    if (length > maxTokens)
      throw new IntFlashError('ERR_SHAPE', `Expected at most ${maxTokens} tokens in the cache, got ${length}`);
    const more = Math.max(this.pagesFor(tokens), 0);
    if (!this.pool.take(more)) return false;
    this.#pageCount += more;
    return true;
  }

  settle(ids: readonly number[]): void {
    if (this.length > this.#history.length) this.#history.add(ids);
  }

  get missing(): number {
    return this.#history.missing(this.length, true);
  }

  /** On a device, sequences share no pages. */
  publish(): void {}

  adopt(): number {
    return 0;
  }

  nextPage(): undefined {
    return undefined;
  }

  forget(length: number): void {
    this.truncate(length);
    this.#history.forget(length);
  }

  /** Also gives up what was reserved for tokens that did not come. Where the device fails, all of it: then all is missing. */
  truncate(length: number): void {
    this.#expectLive();
    if (!Number.isInteger(length) || length < 0)
      throw new IntFlashError('ERR_ARG_RANGE', `Expected a length >= 0, got ${length}`);
    if (length === 0 || !this.#cut(length)) this.putAside();
    this.#keepPages(pagesOf(this.length));
    this.#recount();
  }

  putAside(): void {
    this.#sequence?.dispose();
    this.#sequence = undefined;
    this.#keepPages(0);
    this.#recount();
  }

  dispose(): void {
    if (this.#disposed) return;
    this.putAside();
    this.#disposed = true;
  }

  /** @returns false when the device fails: one that is lost stays so, and whoever computes next is told */
  #cut(length: number): boolean {
    try {
      this.#sequence?.truncate(length);
      return true;
    } catch (error) {
      if (IntFlashError.isInstance(error)) return false;
      throw error;
    }
  }

  /** The sequence on the device, with room for more tokens. @throws {IntFlashError} as {@link reserve}; `ERR_OOM` when there is no page for them. */
  #open(tokens: number): DecoderSequence {
    if (!this.reserve(tokens))
      throw new IntFlashError('ERR_OOM', 'Expected a free page of the KV cache, got none', { where: 'device' });
    this.#sequence ??= this.#decoder.createSequence(this.dtype);
    return this.#sequence;
  }

  #keepPages(count: number): void {
    this.pool.drop(this.#pageCount - count);
    this.#pageCount = count;
  }

  #recount(): void {
    const bytes = this.#sequence?.bytes ?? 0;
    this.pool.bytes += bytes - this.#counted;
    this.#counted = bytes;
  }

  #expectLive(): void {
    if (this.#disposed) throw new IntFlashError('ERR_DISPOSED', 'Expected a live KV cache, got one that was disposed');
  }
}
