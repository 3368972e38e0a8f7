import {
  type Decoder,
  type DecoderPage,
  type DecoderPart,
  type DecoderSequence,
  type DrawRules,
  IntFlashError,
  type KeyScales,
  KV_PAGE_TOKENS,
} from '@int-flash/ops';
import type { DevicePages } from './device-pages.js';
import { isOutOfMemory, noFreePage } from './out-of-memory.js';
import type { Pace } from './pace.js';
import { pagesOf } from './page-limit.js';
import { PageTable } from './page-table.js';
import type { PagedSequence } from './paged-sequence.js';

/** Positions computed together while a prompt is read on a device: enough to fill its tensor cores, few enough for those who wait meanwhile … */
export const DEVICE_CHUNK = 512;
/** … and fewer where each position's logits are wanted, which take a vocabulary of floats apiece. */
const LOGITS_CHUNK = 64;
/** More positions at once are not faster: a step of so many fills the largest device, and reads the weights rarely enough. */
export const LONGEST_CHUNK = 8192;
/** A position takes as long in the layers as in attention to about so many keys, with the shapes of Llama-3.1-8B on an H200 (docs/results/h200/decoder.jsonl). */
const LAYER_KEYS = 12_288;

/** Ways of storing keys and values that a decoder on a device has. */
export type DeviceDtype = 'int8' | 'int4';

export interface DeviceCacheShape {
  readonly dtype: DeviceDtype;
  readonly keyScales?: KeyScales | undefined;
  readonly vocabSize: number;
  /** It never grows past it. */
  readonly maxTokens: number;
  /** Tokens of a prompt that a step has room for. */
  readonly longChunk: number;
}

interface CachePart {
  readonly cache: DeviceCache;
  readonly ids: readonly number[];
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
  readonly isExact = true;
  readonly pool: DevicePages;
  readonly #decoder: Decoder;
  readonly #shape: DeviceCacheShape;
  readonly #table: PageTable<DecoderPage>;
  #sequence: DecoderSequence | undefined;
  /** Pages taken over behind those of {@link #sequence}, which the device hears of with the next call. */
  #adopted: readonly DecoderPage[] = [];
  /** Bytes besides pages that the pool counts for it. */
  #counted = 0;

  constructor(decoder: Decoder, pool: DevicePages, shape: DeviceCacheShape) {
    this.#decoder = decoder;
    this.pool = pool;
    this.#shape = shape;
    const { dtype, maxTokens } = shape;
    this.#table = new PageTable(pool, { space: `device/${dtype}`, chunk: undefined, isCoded: true, maxTokens });
  }

  get dtype(): DeviceDtype {
    return this.#shape.dtype;
  }

  get longChunk(): number {
    return Math.min(chunkBehind(this.length), this.#shape.longChunk);
  }

  get length(): number {
    return this.#heldLength + this.#adopted.length * KV_PAGE_TOKENS;
  }

  get history(): readonly number[] {
    return this.#table.history.ids;
  }

  get pageCount(): number {
    return this.#table.count;
  }

  get isDisposed(): boolean {
    return this.#table.isDisposed;
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
      if (!this.reserve(ids.length)) throw noFreePage('device');
      for (let first = 0; ; first += chunk) {
        const part = Int32Array.from(ids.slice(first, first + chunk));
        const logits = new Float32Array((onLogits ? part.length : 1) * vocabSize);
        await withMemory(this.pool, () => this.#open(part.length).forward(part, logits));
        this.#recount();
        pace.throwIfAborted();
        onLogits?.(logits, first);
        if (first + chunk >= ids.length) return logits.subarray(-vocabSize);
      }
    } catch (error) {
      if (!this.isDisposed) this.truncate(before);
      throw error;
    }
  }

  /**
   * Runs one step over several, each a chunk of its tokens at most, and reads the weights once for all.
   *
   * @param parts Caches of one type; `wanted` as {@link LogitsPart} has it.
   * @returns The logits that each wants.
   */
  static async forwardTogether(
    decoder: Decoder,
    parts: readonly (CachePart & { readonly wanted: number })[],
    pace: Pace,
  ): Promise<Float32Array[]> {
    const { vocabSize } = parts[0]!.cache.#shape;
    const logits = new Float32Array(parts.reduce((sum, { wanted }) => sum + wanted, 0) * vocabSize);
    await DeviceCache.#step(parts, pace, (native) => decoder.forwardBatch(native, logits));
    return shareOut(
      logits,
      parts.map(({ wanted }) => wanted * vocabSize),
    );
  }

  /** The same step, and what follows each one's last tokens drawn on the device. @param parts `draw` as {@link DrawPart} has it. */
  static async drawTogether(
    decoder: Decoder,
    parts: readonly (CachePart & { readonly draw: readonly DrawRules[] })[],
    pace: Pace,
  ): Promise<Int32Array[]> {
    const drawn = await DeviceCache.#step(parts, pace, (native) => decoder.drawBatch(native));
    return shareOut(
      drawn,
      parts.map(({ draw }) => draw.length),
    );
  }

  /** Hands parts over as a decoder takes them, each sequence with room for its tokens. */
  static async #step<Wanted extends object, Outcome>(
    parts: readonly (CachePart & Wanted)[],
    pace: Pace,
    run: (native: (DecoderPart & Wanted)[]) => Promise<Outcome>,
  ): Promise<Outcome> {
    const outcome = await withMemory(parts[0]!.cache.pool, () =>
      run(
        parts.map((part) => ({ ...part, sequence: part.cache.#open(part.ids.length), ids: Int32Array.from(part.ids) })),
      ),
    );
    for (const { cache } of parts) cache.#recount();
    pace.throwIfAborted();
    return outcome;
  }

  pagesFor(tokens: number): number {
    return pagesOf(this.length + tokens) - this.#table.count;
  }

  reserve(tokens: number): boolean {
    const length = this.length + tokens;
    this.#table.expectToHold(length);
    return this.#table.grow(pagesOf(length));
  }

  settle(ids: readonly number[]): void {
    this.#table.settle(ids, this.length);
  }

  get missing(): number {
    return this.#table.history.missing(this.length, true);
  }

  publish(): void {
    const sequence = this.#sequence;
    if (!sequence || this.#adopted.length > 0) return; // then nothing was computed since the last time
    this.#unlessFailing(() =>
      this.#table.publish(
        this.length,
        (page) => sequence.sharePage(page),
        (page, shared) => sequence.adoptPages(page, [shared]),
      ),
    );
  }

  adopt(next: readonly number[]): number {
    const before = this.history.length;
    this.#adopted = [...this.#adopted, ...this.#table.adopt(next, this.length)];
    return this.history.length - before;
  }

  nextPage(next: readonly number[]): string | undefined {
    return this.#table.nextPage(next, this.length);
  }

  forget(length: number): void {
    this.truncate(length);
    this.#table.forget(length);
    // What the device could not keep is computed again, by calls like those that computed it.
    const { history } = this.#table;
    while (this.length < history.length && !history.canGoOnAt(this.length)) this.truncate(this.length - 1);
  }

  /**
   * Also gives up what was reserved for tokens that did not come, and some tokens more where the device cannot go back exactly
   * (`DecoderSequence.truncate`). Where it fails, all of it: then all is missing.
   */
  truncate(length: number): void {
    this.#table.expectToEndAt(length);
    if (length < this.length)
      this.#adopted = this.#adopted.slice(0, Math.max(Math.floor((length - this.#heldLength) / KV_PAGE_TOKENS), 0));
    if (length === 0 || !this.#unlessFailing(() => this.#sequence?.truncate(length))) this.putAside();
    this.#table.cut(this.length);
    this.#recount();
  }

  putAside(): void {
    this.publish();
    this.#adopted = [];
    this.#sequence?.dispose();
    this.#sequence = undefined;
    this.#table.cut(0);
    this.#recount();
  }

  dispose(): void {
    if (this.isDisposed) return;
    this.putAside();
    this.#table.isDisposed = true;
  }

  /** Tokens that the device has heard of. */
  get #heldLength(): number {
    return this.#sequence?.length ?? 0;
  }

  /** @returns false when the device fails: one that is lost stays so, and whoever computes next is told */
  #unlessFailing(change: () => void): boolean {
    try {
      change();
      return true;
    } catch (error) {
      if (IntFlashError.isInstance(error)) return false;
      throw error;
    }
  }

  /** The sequence on the device, with room for more tokens. @throws {IntFlashError} as {@link reserve}; `ERR_OOM` when there is no page for them. */
  #open(tokens: number): DecoderSequence {
    if (!this.reserve(tokens)) throw noFreePage('device');
    this.#sequence ??= this.#decoder.createSequence(this.dtype, this.#shape.keyScales);
    if (this.#adopted.length > 0) {
      this.#sequence.adoptPages(this.#sequence.length / KV_PAGE_TOKENS, this.#adopted);
      this.#adopted = [];
    }
    return this.#sequence;
  }

  #recount(): void {
    const besides = this.#sequence ? this.#sequence.bytes - pagesOf(this.#heldLength) * this.pool.pageBytes : 0;
    this.pool.besides += besides - this.#counted;
    this.#counted = besides;
  }
}

/**
 * Tokens of a step behind so many keys, in whole chunks: whoever comes meanwhile, or is aborted, waits for its end, so it takes no longer than the longest
 * one behind none. Tokens · (LAYER_KEYS + keys + tokens / 2) is the same for both.
 */
export function chunkBehind(keys: number): number {
  const each = LAYER_KEYS + keys;
  const tokens = Math.sqrt(each ** 2 + LONGEST_CHUNK * (LONGEST_CHUNK + 2 * LAYER_KEYS)) - each;
  return Math.max(Math.floor((tokens + 0.5) / DEVICE_CHUNK), 1) * DEVICE_CHUNK; // + 0.5: the root may be a little less than it is
}

/** Views of `all`, of these lengths and one behind the other. */
function shareOut<T extends Float32Array | Int32Array>(all: T, lengths: readonly number[]): T[] {
  let given = 0;
  return lengths.map((length) => {
    given += length;
    return all.subarray(given - length, given) as T;
  });
}

/** Runs a step; where the device's memory ends before the pool's pages do, once more without what is kept for sequences to come. */
async function withMemory<T>(pool: DevicePages, step: () => Promise<T>): Promise<T> {
  try {
    return await step();
  } catch (error) {
    if (!isOutOfMemory(error) || !pool.giveUpKept()) throw error;
    return step();
  }
}
