import { KV_PAGE_TOKENS, type KvCacheView } from '@int-flash/ops';
import { multiplyQueries } from './channel-scales.js';
import { isFloat, type KeyValueRows, type LayerState, type WriteRows } from './kv-cache-layer.js';
import type { KvCachePool } from './kv-cache-pool.js';
import { noFreePage } from './out-of-memory.js';
import { pagesOf } from './page-limit.js';
import { PageTable } from './page-table.js';
import type { PagedSequence } from './paged-sequence.js';

export interface KvCacheOptions {
  /** Positions that the model can tell apart; the cache never grows past it. */
  readonly maxTokens: number;
  /** Whether a token's bits depend on no more than `replayLength` says; false by default. */
  readonly isExact?: boolean;
  /** Tokens of a prompt that are computed together, whole pages. */
  readonly chunk?: number;
  /** What besides the tokens decides the content of pages that may be shared; undefined: none may. */
  readonly space?: string | undefined;
}

/**
 * Keys and values of one sequence in host memory, all layers: a block table of pages from a pool.
 *
 * Owned by exactly one disposable, which disposes it.
 */
export class KvCache implements PagedSequence {
  readonly canDraw = false;
  readonly longChunk = undefined;
  readonly #pool: KvCachePool;
  readonly #options: KvCacheOptions;
  readonly #lengths: number[];
  readonly #table: PageTable<readonly LayerState[]>;
  #states: LayerState[];
  /** Tokens that may be written up to: their pages are there, and nobody else reads them. */
  #room = 0;
  /** Value scales' maxima behind each whole page, as far as they were wanted. */
  readonly #largest: Float32Array[][] = [];

  constructor(pool: KvCachePool, options: KvCacheOptions) {
    const { chunk = KV_PAGE_TOKENS, space } = options;
    const isCoded = !isFloat(pool.shape.dtype);
    this.#pool = pool;
    this.#options = options;
    this.#table = new PageTable(pool, { chunk, space, isCoded, maxTokens: options.maxTokens });
    this.#lengths = pool.layers.map(() => 0);
    this.#states = pool.layers.map((layer) => layer.start());
  }

  /** Tokens that every layer holds. */
  get length(): number {
    return Math.min(...this.#lengths);
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

  /** Whether it holds keys and values as codes. */
  get isCoded(): boolean {
    return !isFloat(this.#pool.shape.dtype);
  }

  get pool(): KvCachePool {
    return this.#pool;
  }

  get chunk(): number | undefined {
    return this.#options.chunk;
  }

  get isExact(): boolean {
    return this.#options.isExact === true;
  }

  pagesFor(tokens: number): number {
    return pagesOf(this.length + tokens) - this.#table.count;
  }

  reserve(tokens: number): boolean {
    const { length } = this;
    this.#table.expectToHold(length + tokens);
    if (!this.#ownLastPage(length)) return false;
    if (!this.#table.grow(pagesOf(length + tokens))) return false;
    this.#room = length + tokens;
    return true;
  }

  /**
   * Adds the next positions to one layer, or leaves it as it was.
   *
   * @throws {IntFlashError} as {@link reserve}; `ERR_OOM` when there is no page for them; `ERR_NONFINITE` from the quantizers.
   */
  append(layer: number, rows: KeyValueRows): void {
    const length = this.#makeRoom(layer, rows.tokens);
    this.#writeOrTakeBack(layer, length, () =>
      this.#pool.layers[layer]!.write(rows, this.#states[layer]!, this.#table.numbers, length),
    );
    this.#lengths[layer] = length + rows.tokens;
  }

  /**
   * As {@link append}, of rows that a backend writes where they go while it computes them.
   *
   * @returns false, with nothing written, where it cannot: {@link KvCacheLayer.writeBy}.
   */
  appendBy(layer: number, rows: KeyValueRows, write: WriteRows): boolean {
    const length = this.#makeRoom(layer, rows.tokens);
    const isWritten = this.#writeOrTakeBack(layer, length, () =>
      this.#pool.layers[layer]!.writeBy(write, rows, this.#states[layer]!, this.#table.numbers, length),
    );
    if (isWritten) this.#lengths[layer] = length + rows.tokens;
    return isWritten;
  }

  /** Brings queries, [tokens, heads, headDim], into the units of the layer's keys, in place: once for each, after the keys were appended. */
  scaleQueries(layer: number, query: Float32Array, heads: number): void {
    const { channels } = this.#states[layer]!;
    if (channels.length > 0) multiplyQueries(query, heads, this.#pool.shape.kvHeads, channels);
  }

  /** What the backend reads; valid until the next change. */
  view(layer: number): KvCacheView {
    this.#table.expectLive();
    return this.#pool.layers[layer]!.view(this.#table.numbers, this.#lengths[layer]!);
  }

  settle(ids: readonly number[]): void {
    this.#table.settle(ids, this.length);
  }

  get missing(): number {
    return this.#table.history.missing(this.length, this.isExact);
  }

  publish(): void {
    this.#table.publish(this.length, (page) => {
      const largest = this.#largestBehind(page);
      if (largest.some((heads) => heads.includes(0))) return undefined; // scales of zeros are not settled yet
      return this.#states.map(({ offsets, channels }, layer) => ({ offsets, channels, largest: largest[layer]! }));
    });
  }

  adopt(next: readonly number[]): number {
    const before = this.history.length;
    const states = this.#table.adopt(next, this.length).at(-1);
    if (!states) return 0;
    this.#lengths.fill(this.#table.count * KV_PAGE_TOKENS);
    this.#states = states.map(({ largest, ...shifts }) => ({ ...shifts, largest: largest.slice() }));
    return this.history.length - before;
  }

  nextPage(next: readonly number[]): string | undefined {
    return this.#table.nextPage(next, this.length);
  }

  forget(length: number): void {
    this.truncate(length);
    this.#table.forget(length);
  }

  truncate(length: number): void {
    this.#table.expectToEndAt(length);
    this.#room = 0;
    if (this.#lengths.every((held) => held <= length) && this.#table.count <= pagesOf(length)) return;
    this.#lengths.forEach((held, layer) => {
      this.#lengths[layer] = Math.min(held, length);
    });
    this.#largest.length = Math.min(this.#largest.length, Math.floor(length / KV_PAGE_TOKENS));
    this.#table.cut(length);
    this.#states = this.#states.map((_, layer) => this.#stateAt(layer, length));
  }

  putAside(): void {
    this.publish();
    this.#room = 0;
    this.#lengths.fill(0);
    this.#largest.length = 0;
    this.#table.cut(0);
    this.#states = this.#pool.layers.map((layer) => layer.start());
  }

  dispose(): void {
    if (this.isDisposed) return;
    this.putAside();
    this.#table.isDisposed = true;
  }

  /** The page that more is written to belongs to nobody else. @returns false when there is no page for that */
  #ownLastPage(length: number): boolean {
    const index = Math.floor(length / KV_PAGE_TOKENS);
    if (length % KV_PAGE_TOKENS === 0 || index >= this.#table.count) return true;
    return this.#table.own(index, (from, to) => {
      for (const layer of this.#pool.layers) layer.copyPage(from, to);
    });
  }

  /** @returns How many tokens the layer holds. */
  #makeRoom(layer: number, tokens: number): number {
    this.#table.expectLive();
    const length = this.#lengths[layer]!;
    if (length + tokens > this.#room && !this.reserve(length + tokens - this.length)) throw noFreePage('host');
    return length;
  }

  /** Rows may have decided the scales of others before one of them was found at fault. */
  #writeOrTakeBack<T>(layer: number, length: number, write: () => T): T {
    try {
      return write();
    } catch (error) {
      this.#states[layer] = this.#stateAt(layer, length);
      throw error;
    }
  }

  /** Of the layer behind its first `length` tokens. */
  #stateAt(index: number, length: number): LayerState {
    const layer = this.#pool.layers[index]!;
    if (length === 0) return layer.start();
    const whole = Math.floor(length / KV_PAGE_TOKENS);
    const known = whole === 0 ? undefined : this.#largestBehind(whole - 1);
    const { offsets, channels } = this.#states[index]!;
    const before = known?.[index] ?? layer.start().largest;
    return {
      offsets,
      channels,
      largest: layer.largestAt(length, whole * KV_PAGE_TOKENS, before, this.#table.numbers),
    };
  }

  /** Each layer's {@link LayerState.largest} behind a page's last token. */
  #largestBehind(page: number): Float32Array[] {
    for (let i = this.#largest.length; i <= page; i++) {
      const found = this.#table.stateBehind(i)?.map(({ largest }) => largest);
      const before = this.#largest[i - 1];
      this.#largest.push(
        found ??
          this.#pool.layers.map((layer, at) =>
            layer.largestAt(
              (i + 1) * KV_PAGE_TOKENS,
              i * KV_PAGE_TOKENS,
              before?.[at] ?? layer.start().largest,
              this.#table.numbers,
            ),
          ),
      );
    }
    return this.#largest[page]!;
  }
}
