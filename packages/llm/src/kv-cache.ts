import { IntFlashError, KV_PAGE_TOKENS, type KvCacheView } from '@int-flash/ops';
import { CallHistory } from './call-history.js';
import type { KeyValueRows, LayerState } from './kv-cache-layer.js';
import type { KvCachePool } from './kv-cache-pool.js';
import { pagesOf } from './page-limit.js';
import type { PagedSequence } from './paged-sequence.js';
import type { PrefixNode } from './prefix-tree.js';
import { RUN_KEYS } from './replay.js';

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
  readonly #pool: KvCachePool;
  readonly #options: KvCacheOptions;
  readonly #lengths: number[];
  #states: LayerState[];
  #pages = new Int32Array(4);
  #pageCount = 0;
  /** Tokens that may be written up to: their pages are there, and nobody else reads them. */
  #room = 0;
  /** Of the first pages, which others can find or were found. */
  readonly #nodes: PrefixNode[] = [];
  /** Value scales' maxima behind each whole page, as far as they were wanted. */
  readonly #largest: Float32Array[][] = [];
  readonly #history = new CallHistory();
  /** Of {@link history} from the start, those whose bits anybody would compute who reads the same. */
  #common = 0;
  #disposed = false;

  constructor(pool: KvCachePool, options: KvCacheOptions) {
    this.#pool = pool;
    this.#options = options;
    this.#lengths = pool.layers.map(() => 0);
    this.#states = pool.layers.map((layer) => layer.start());
  }

  /** Tokens that every layer holds. */
  get length(): number {
    return Math.min(...this.#lengths);
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
    return pagesOf(this.length + tokens) - this.#pageCount;
  }

  reserve(tokens: number): boolean {
    this.#expectLive();
    const { length } = this;
    const { maxTokens } = this.#options;
    if (length + tokens > maxTokens) {
      throw new IntFlashError('ERR_SHAPE', `Expected at most ${maxTokens} tokens in the cache, got ${length + tokens}`);
    }
    if (!this.#ownLastPage(length)) return false;
    const before = this.#pageCount;
    while (this.#pageCount < pagesOf(length + tokens)) {
      const page = this.#pool.take(this.#pages[this.#pageCount - 1]);
      if (page === undefined) {
        this.#dropPages(before);
        return false;
      }
      this.#push(page);
    }
    this.#room = length + tokens;
    return true;
  }

  /**
   * Adds the next positions to one layer.
   *
   * @throws {IntFlashError} as {@link reserve}; `ERR_OOM` when there is no page for them; `ERR_NONFINITE` from the quantizers.
   */
  append(layer: number, rows: KeyValueRows): void {
    this.#expectLive();
    const length = this.#lengths[layer]!;
    if (length + rows.tokens > this.#room && !this.reserve(length + rows.tokens - this.length)) {
      throw new IntFlashError('ERR_OOM', 'Expected a free page of the KV cache, got none', { where: 'host' });
    }
    this.#pool.layers[layer]!.write(rows, this.#states[layer]!, this.#pages, length);
    this.#lengths[layer] = length + rows.tokens;
  }

  /** What the backend reads; valid until the next change. */
  view(layer: number): KvCacheView {
    this.#expectLive();
    return this.#pool.layers[layer]!.view(this.#pages, this.#lengths[layer]!);
  }

  settle(ids: readonly number[]): void {
    const end = this.length;
    const start = end - ids.length;
    if (end <= this.#history.length) return;
    const isAlike =
      start === 0
        ? ids.length >= KV_PAGE_TOKENS || !this.#isCoded
        : end <= RUN_KEYS || ids.length === this.#options.chunk;
    if (this.#common === start && isAlike) this.#common = end;
    this.#history.add(ids);
  }

  get missing(): number {
    return this.#history.missing(this.length, this.isExact);
  }

  publish(): void {
    const { space } = this.#options;
    const tree = this.#pool.prefixes;
    if (!tree || space === undefined) return;
    for (let page = this.#nodes.length; (page + 1) * KV_PAGE_TOKENS <= Math.min(this.#common, this.length); page++) {
      const largest = this.#largestBehind(page);
      if (largest.some((heads) => heads.includes(0))) return; // scales of zeros are not settled yet
      const ids = this.history.slice(page * KV_PAGE_TOKENS, (page + 1) * KV_PAGE_TOKENS);
      const own = this.#pages[page]!;
      const found = tree.find(space, this.#nodes, ids);
      if (found) this.#exchange(page, found.page);
      const states = this.#states.map(({ offsets }, layer) => ({ offsets, largest: largest[layer]! }));
      this.#nodes.push(found ?? tree.add(space, this.#nodes, ids, own, states));
    }
  }

  adopt(next: readonly number[]): number {
    const { chunk = KV_PAGE_TOKENS } = this.#options;
    const before = this.#history.length;
    const known = before + next.length;
    if (this.length !== this.#nodes.length * KV_PAGE_TOKENS) return 0;
    // Among few keys a prompt may be cut anywhere; among more, the rest must be cut as it would be without the others.
    const step = known <= RUN_KEYS ? KV_PAGE_TOKENS : chunk;
    for (let end = this.length + step; end < known && this.#isShareable(end); end += step) {
      const nodes = this.#findPages(end, next, before);
      if (!nodes) break;
      for (const node of nodes) this.#adoptPage(node, next, before);
    }
    return this.#history.length - before;
  }

  /** The published pages that lead from the last one of its own to `end`; undefined when one is missing. */
  #findPages(end: number, next: readonly number[], before: number): PrefixNode[] | undefined {
    const { space } = this.#options;
    const { prefixes } = this.#pool;
    if (space === undefined || !prefixes) return undefined;
    const path = [...this.#nodes];
    for (let at = this.length + KV_PAGE_TOKENS; at <= end; at += KV_PAGE_TOKENS) {
      const node = prefixes.find(space, path, this.#idsTo(at, next, before));
      if (!node) return undefined;
      path.push(node);
    }
    return path.slice(this.#nodes.length);
  }

  #adoptPage(node: PrefixNode, next: readonly number[], before: number): void {
    const end = this.length + KV_PAGE_TOKENS;
    this.#pool.pages.hold(node.page);
    this.#push(node.page);
    this.#nodes.push(node);
    this.#lengths.fill(end);
    this.#states = node.states.map(({ offsets, largest }) => ({ offsets, largest: largest.slice() }));
    const fresh = end - this.#history.length;
    if (fresh <= 0) return;
    this.#history.add(this.#idsTo(end, next, before).slice(-fresh));
    this.#common = end;
  }

  nextPage(next: readonly number[]): string | undefined {
    const { space } = this.#options;
    const end = this.length + KV_PAGE_TOKENS;
    const isShared = space !== undefined && this.#pool.prefixes !== undefined;
    if (!isShared || this.length !== this.#nodes.length * KV_PAGE_TOKENS) return undefined;
    if (end >= this.#history.length + next.length || !this.#isShareable(end)) return undefined;
    return `${space}/${this.#pages[this.#pageCount - 1] ?? ''}/${this.#idsTo(end, next, this.#history.length).join()}`;
  }

  forget(length: number): void {
    this.truncate(length);
    this.#history.forget(length);
    this.#common = Math.min(this.#common, length);
  }

  truncate(length: number): void {
    this.#expectLive();
    if (!Number.isInteger(length) || length < 0)
      throw new IntFlashError('ERR_ARG_RANGE', `Expected a length >= 0, got ${length}`);
    this.#room = 0;
    if (this.#lengths.every((held) => held <= length)) return;
    this.#lengths.forEach((held, layer) => {
      this.#lengths[layer] = Math.min(held, length);
    });
    this.#nodes.length = Math.min(this.#nodes.length, Math.floor(length / KV_PAGE_TOKENS));
    this.#largest.length = Math.min(this.#largest.length, Math.floor(length / KV_PAGE_TOKENS));
    this.#dropPages(pagesOf(length));
    this.#states = this.#statesAt(length);
  }

  putAside(): void {
    this.publish();
    this.#room = 0;
    this.#lengths.fill(0);
    this.#nodes.length = 0;
    this.#largest.length = 0;
    this.#dropPages(0);
    this.#states = this.#pool.layers.map((layer) => layer.start());
  }

  dispose(): void {
    if (this.#disposed) return;
    this.putAside();
    this.#disposed = true;
  }

  /** Whether the first call's tokens decide an offset that all keys share. */
  get #isCoded(): boolean {
    const { dtype } = this.#pool.shape;
    return dtype === 'int8' || dtype === 'int4';
  }

  /** Whether the page up to `end` has the bits, or will have, that anybody would compute. */
  #isShareable(end: number): boolean {
    return end <= this.#common || this.#common === this.#history.length;
  }

  /** The page's tokens that end at `end`, of those computed and those to come behind the first `computed`. */
  #idsTo(end: number, next: readonly number[], computed: number): number[] {
    const start = end - KV_PAGE_TOKENS;
    return [
      ...this.history.slice(start, Math.min(end, computed)),
      ...next.slice(Math.max(start - computed, 0), Math.max(end - computed, 0)),
    ];
  }

  /** A page that somebody else can read is copied before more is written to it. @returns false when there is no page for that */
  #ownLastPage(length: number): boolean {
    const index = Math.floor(length / KV_PAGE_TOKENS);
    if (length % KV_PAGE_TOKENS === 0 || index >= this.#pageCount) return true;
    const shared = this.#pages[index]!;
    if (this.#pool.pages.holders(shared) === 1 && !this.#pool.pages.isKept(shared)) return true;
    const page = this.#pool.take(shared);
    if (page === undefined) return false;
    for (const layer of this.#pool.layers) layer.copyPage(shared, page);
    this.#pool.pages.drop(shared);
    this.#pages[index] = page;
    return true;
  }

  #exchange(index: number, page: number): void {
    const own = this.#pages[index]!;
    if (own === page) return;
    this.#pool.pages.hold(page);
    this.#pool.pages.drop(own);
    this.#pages[index] = page;
  }

  #push(page: number): void {
    if (this.#pageCount === this.#pages.length) {
      const grown = new Int32Array(2 * this.#pages.length);
      grown.set(this.#pages);
      this.#pages = grown;
    }
    this.#pages[this.#pageCount++] = page;
  }

  #dropPages(count: number): void {
    while (this.#pageCount > count) this.#pool.pages.drop(this.#pages[--this.#pageCount]!);
  }

  #statesAt(length: number): LayerState[] {
    if (length === 0) return this.#pool.layers.map((layer) => layer.start());
    const whole = Math.floor(length / KV_PAGE_TOKENS);
    const known = whole === 0 ? undefined : this.#largestBehind(whole - 1);
    return this.#pool.layers.map((layer, i) => {
      const { offsets } = this.#states[i]!;
      const before = known?.[i] ?? layer.start().largest;
      return { offsets, largest: layer.largestAt(length, whole * KV_PAGE_TOKENS, before, this.#pages) };
    });
  }

  /** Each layer's {@link LayerState.largest} behind a page's last token. */
  #largestBehind(page: number): Float32Array[] {
    for (let i = this.#largest.length; i <= page; i++) {
      const found = this.#nodes[i]?.states.map(({ largest }) => largest);
      const before = this.#largest[i - 1];
      this.#largest.push(
        found ??
          this.#pool.layers.map((layer, at) =>
            layer.largestAt(
              (i + 1) * KV_PAGE_TOKENS,
              i * KV_PAGE_TOKENS,
              before?.[at] ?? layer.start().largest,
              this.#pages,
            ),
          ),
      );
    }
    return this.#largest[page]!;
  }

  #expectLive(): void {
    if (this.#disposed) throw new IntFlashError('ERR_DISPOSED', 'Expected a live KV cache, got one that was disposed');
  }
}
