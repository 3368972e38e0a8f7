import { IntFlashError, KV_PAGE_TOKENS } from '@int-flash/ops';
import { CallHistory } from './call-history.js';
import { pagesOf } from './page-limit.js';
import type { PagePool } from './page-pool.js';
import type { PageSource } from './paged-sequence.js';
import type { PrefixNode, PrefixTree } from './prefix-tree.js';
import { FEW_QUERIES, RUN_KEYS } from './replay.js';

/** Pages that sequences take, and those that are kept for sequences to come; `State` as {@link PrefixNode} has it. */
export interface SharedPages<State> extends PageSource {
  readonly pages: PagePool;
  /** Undefined: nothing is kept. */
  readonly prefixes: PrefixTree<State> | undefined;
}

/** What decides which sequences have the same bits. */
export interface PageTableRules {
  /** What besides the tokens decides the content of pages that may be shared, in whatever pool; undefined: none may. */
  readonly space: string | undefined;
  /** Tokens of a prompt that are computed together, whole pages; undefined where nothing depends on that but whether a call's tokens are few. */
  readonly chunk: number | undefined;
  /** Whether the first call's tokens decide an offset that all keys share. */
  readonly isCoded: boolean;
  /** Of the longest sequence. */
  readonly maxTokens: number;
}

/** Which pages one sequence has, what was computed of it, and what of that it has in common with others. */
export class PageTable<State> {
  readonly history = new CallHistory();
  isDisposed = false;
  readonly #pool: SharedPages<State>;
  readonly #rules: PageTableRules;
  #numbers = new Int32Array(4);
  #count = 0;
  /** Of the first pages, which others can find or were found. */
  readonly #nodes: PrefixNode<State>[] = [];
  /** Of {@link history} from the start, those whose bits anybody would compute who reads the same. */
  #common = 0;

  constructor(pool: SharedPages<State>, rules: PageTableRules) {
    this.#pool = pool;
    this.#rules = rules;
  }

  /** Page numbers, the first {@link count} of them. */
  get numbers(): Int32Array {
    return this.#numbers;
  }

  get count(): number {
    return this.#count;
  }

  /** @throws {IntFlashError} `ERR_DISPOSED`. */
  expectLive(): void {
    if (this.isDisposed) throw new IntFlashError('ERR_DISPOSED', 'Expected a live KV cache, got one that was disposed');
  }

  /** @throws {IntFlashError} `ERR_DISPOSED`, `ERR_SHAPE` past the longest sequence. */
  expectToHold(length: number): void {
    this.expectLive();
    const { maxTokens } = this.#rules;
    if (length > maxTokens)
      throw new IntFlashError('ERR_SHAPE', `Expected at most ${maxTokens} tokens in the cache, got ${length}`);
  }

  /** @throws {IntFlashError} `ERR_DISPOSED`, `ERR_ARG_RANGE`. */
  expectToEndAt(length: number): void {
    this.expectLive();
    if (!Number.isInteger(length) || length < 0)
      throw new IntFlashError('ERR_ARG_RANGE', `Expected a length >= 0, got ${length}`);
  }

  /** Of a page that is shared. */
  stateBehind(page: number): State | undefined {
    return this.#nodes[page]?.state;
  }

  /** Gets pages until there are so many. @returns false when the pool has none left; then nothing has changed */
  grow(count: number): boolean {
    const before = this.#count;
    while (this.#count < count) {
      const page = this.#take(this.#numbers[this.#count - 1]);
      if (page === undefined) {
        this.#drop(before);
        return false;
      }
      this.#push(page);
    }
    return true;
  }

  /** Gives up the pages behind the first `length` tokens. */
  cut(length: number): void {
    this.#nodes.length = Math.min(this.#nodes.length, Math.floor(length / KV_PAGE_TOKENS));
    this.#drop(pagesOf(length));
  }

  /** A page that somebody else can read is copied before more is written to it. @returns false when there is no page for that */
  own(index: number, copy: (from: number, to: number) => void): boolean {
    const shared = this.#numbers[index]!;
    if (this.#pool.pages.holders(shared) === 1 && !this.#pool.pages.isKept(shared)) return true;
    const page = this.#take(shared);
    if (page === undefined) return false;
    copy(shared, page);
    this.#pool.pages.drop(shared);
    this.#numbers[index] = page;
    return true;
  }

  /** As {@link PagedSequence.settle}. @param end Tokens that are held now. */
  settle(ids: readonly number[], end: number): void {
    const start = end - ids.length;
    if (end <= this.history.length) return;
    if (this.#common === start && this.#isCommonCall(ids.length, end)) this.#common = end;
    this.history.add(ids);
  }

  /** Forgets what was computed from `length` on. */
  forget(length: number): void {
    this.history.forget(length);
    this.#common = Math.min(this.#common, length);
  }

  /**
   * Puts whole pages where others find them.
   *
   * @param length   Tokens that are held.
   * @param stateOf  Undefined: what a page holds is not settled yet.
   * @param exchange Told of a page that somebody else had put there before, which takes the place of the sequence's own.
   */
  publish(
    length: number,
    stateOf: (page: number) => State | undefined,
    exchange: (page: number, state: State) => void = () => {},
  ): void {
    const { space } = this.#rules;
    const tree = this.#pool.prefixes;
    if (!tree || space === undefined) return;
    const known = this.#nodes.length;
    const whole = Math.floor(Math.min(this.#common, length) / KV_PAGE_TOKENS);
    for (let page = known; page < whole; page++) {
      const ids = this.history.ids.slice(page * KV_PAGE_TOKENS, (page + 1) * KV_PAGE_TOKENS);
      const own = this.#numbers[page]!;
      const found = tree.find(space, this.#nodes, ids);
      if (found) {
        if (found.page !== own) exchange(page, found.state);
        this.#exchange(page, found.page);
        this.#nodes.push(found);
        continue;
      }
      const state = stateOf(page);
      if (state === undefined) break;
      this.#nodes.push(tree.add(space, this.#nodes, ids, own, state));
    }
    if (this.#nodes.length > known) tree.touch(this.#nodes);
  }

  /**
   * As {@link PagedSequence.adopt}.
   *
   * @param length Tokens that are held.
   * @returns What was found, page after page.
   */
  adopt(next: readonly number[], length: number): readonly State[] {
    if (length !== this.#nodes.length * KV_PAGE_TOKENS) return [];
    const before = this.history.length;
    const found = this.#findPages(next, length);
    for (const node of found) {
      this.#pool.pages.hold(node.page);
      this.#push(node.page);
      this.#nodes.push(node);
    }
    if (found.length > 0) this.#pool.prefixes?.touch(this.#nodes);
    // Should it be computed again, then in calls like those that would have computed it here.
    const end = length + found.length * KV_PAGE_TOKENS;
    const { chunk = end } = this.#rules;
    for (let at = before; at < end; at += chunk)
      this.history.add(next.slice(at - before, Math.min(at + chunk, end) - before));
    if (end > before) this.#common = end;
    return found.map(({ state }) => state);
  }

  /** As {@link PagedSequence.nextPage}. @param length Tokens that are held. */
  nextPage(next: readonly number[], length: number): string | undefined {
    const { space } = this.#rules;
    const end = length + KV_PAGE_TOKENS;
    const isShared = space !== undefined && this.#pool.prefixes !== undefined;
    if (!isShared || length !== this.#nodes.length * KV_PAGE_TOKENS) return undefined;
    if (end >= this.history.length + next.length || !this.#isShareable(end)) return undefined;
    return `${space}/${this.#numbers[this.#count - 1] ?? ''}/${this.#idsTo(end, next, this.history.length).join()}`;
  }

  /** The published pages that lead on from the last one of its own. */
  #findPages(next: readonly number[], length: number): PrefixNode<State>[] {
    const { space } = this.#rules;
    const { prefixes } = this.#pool;
    if (space === undefined || !prefixes) return [];
    const before = this.history.length;
    const known = before + next.length;
    const own = this.#nodes.length;
    const path = [...this.#nodes];
    for (let end = length + KV_PAGE_TOKENS; end < known && this.#isShareable(end); end += KV_PAGE_TOKENS) {
      const node = prefixes.find(space, path, this.#idsTo(end, next, before));
      if (!node) break;
      path.push(node);
    }
    while (path.length > own && !this.#goesOnAlike(path.length * KV_PAGE_TOKENS, length, known)) path.pop();
    return path.slice(own);
  }

  /** Whether anybody who reads so far would compute the bits of a call of so many tokens. */
  #isCommonCall(tokens: number, end: number): boolean {
    const { chunk, isCoded } = this.#rules;
    if (end === tokens) return tokens >= KV_PAGE_TOKENS || !isCoded;
    return end <= RUN_KEYS || (chunk === undefined ? tokens > FEW_QUERIES : tokens === chunk);
  }

  /**
   * Whether what follows `end` gets the bits that it would get without others' pages. Among few keys it may be cut anywhere; among more, calls of few
   * tokens differ from others.
   */
  #goesOnAlike(end: number, length: number, known: number): boolean {
    const { chunk } = this.#rules;
    if (known <= RUN_KEYS) return true;
    if (chunk !== undefined) return (end - length) % chunk === 0;
    const before = this.history.length;
    if (end < before) return this.history.canGoOnAt(end);
    return end === before || known - end > FEW_QUERIES;
  }

  /** Whether the page up to `end` has the bits, or will have, that anybody would compute. */
  #isShareable(end: number): boolean {
    return end <= this.#common || this.#common === this.history.length;
  }

  /** The page's tokens that end at `end`, of those computed and those to come behind the first `computed`. */
  #idsTo(end: number, next: readonly number[], computed: number): number[] {
    const start = end - KV_PAGE_TOKENS;
    return [
      ...this.history.ids.slice(start, Math.min(end, computed)),
      ...next.slice(Math.max(start - computed, 0), Math.max(end - computed, 0)),
    ];
  }

  /** A page at the cost of a kept one if need be; undefined when sequences hold them all. */
  #take(after: number | undefined): number | undefined {
    const { pages, prefixes } = this.#pool;
    if (pages.free === 0) prefixes?.evict();
    return pages.take(after);
  }

  #exchange(index: number, page: number): void {
    const own = this.#numbers[index]!;
    if (own === page) return;
    this.#pool.pages.hold(page);
    this.#pool.pages.drop(own);
    this.#numbers[index] = page;
  }

  #push(page: number): void {
    if (this.#count === this.#numbers.length) {
      const grown = new Int32Array(2 * this.#numbers.length);
      grown.set(this.#numbers);
      this.#numbers = grown;
    }
    this.#numbers[this.#count++] = page;
  }

  #drop(count: number): void {
    while (this.#count > count) this.#pool.pages.drop(this.#numbers[--this.#count]!);
  }
}
