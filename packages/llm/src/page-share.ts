import type { PagedSequence, PageSource } from './paged-sequence.js';

/** Why a sequence was not let in. */
interface Refusal {
  /** Pages that could have been promised. */
  readonly room: number;
  /** As {@link PagedSequence.nextPage} named what it would have computed. */
  readonly page: string | undefined;
}

/**
 * Decides which sequences hold pages when there are not enough for all.
 *
 * A newcomer is let in when there are pages for all that it wants to have read, besides those that others were let in for; first come, first
 * served. Whoever needs another page and finds none takes those of the sequence that came last, or of one that nobody is waiting for; it is
 * computed again when its turn comes. So the one that came first of those that somebody waits for always gets on, and with it, one after
 * another, all of them.
 */
export class PageShare {
  preemptions = 0;
  readonly #isWaitedFor: (cache: PagedSequence) => boolean;
  /** In the order in which they came. */
  readonly #present = new Set<PagedSequence>();
  /** Those that were let in, and the pages that each was promised then, with those it had. */
  readonly #admitted = new Map<PagedSequence, number>();
  /** Those that were not, so that they are not looked at again before something has changed: to find what others computed takes long. */
  readonly #refused = new Map<PagedSequence, Refusal>();
  readonly #inStep = new Set<PagedSequence>();
  readonly #pagesInStep = new Set<string>();
  /** Pools that somebody found too full to be let in, … */
  readonly #full = new Set<PageSource>();
  /** … and those that somebody wanted pages of and got none, in this step. */
  readonly #short = new Set<PageSource>();
  #asked = 0;
  #found = 0;

  constructor(isWaitedFor: (cache: PagedSequence) => boolean) {
    this.#isWaitedFor = isWaitedFor;
  }

  /** Prompt tokens that came from earlier prompts, of all that were asked for. */
  get prefixes(): { readonly found: number; readonly asked: number } {
    return { found: this.#found, asked: this.#asked };
  }

  /** Present ones, whether they hold pages or not. */
  get sequences(): number {
    return this.#present.size;
  }

  enter(cache: PagedSequence): void {
    this.#present.add(cache);
  }

  leave(cache: PagedSequence): void {
    this.#present.delete(cache);
    this.#admitted.delete(cache);
    this.#refused.delete(cache);
  }

  beginStep(): void {
    this.#full.clear();
    this.#short.clear();
    this.#inStep.clear();
    this.#pagesInStep.clear();
  }

  ask(tokens: number): void {
    this.#asked += tokens;
  }

  /**
   * Whether a sequence has to wait in this step, as far as that is known without a look at what others computed: somebody before it has to, or it had to
   * before and nothing has changed since. Then it holds nothing.
   */
  mustWait(cache: PagedSequence): boolean {
    if (this.#admitted.has(cache)) return false;
    const { pool } = cache;
    if (!this.#full.has(pool)) {
      const refusal = this.#refused.get(cache);
      if (!refusal || this.#room(pool) > refusal.room) return false;
      this.#full.add(pool);
      this.#short.add(pool);
    }
    if (cache.pageCount > 0) cache.putAside();
    return true;
  }

  /** Takes over what others computed already of `ids` from `start` on. @returns tokens that need no computing */
  adopt(cache: PagedSequence, ids: readonly number[], start: number): number {
    const found = cache.adopt(ids.slice(start));
    this.#found += found;
    return found;
  }

  /**
   * Gets pages for a sequence's part of this step.
   *
   * @param tokens Of this step.
   * @param all    That it wants to hold at the end, besides what it holds.
   * @param page   What it computes, where another could want the very same (`PagedSequence.nextPage`): then only one computes it.
   * @returns false when it has to wait.
   */
  makeRoom(cache: PagedSequence, tokens: number, all: number, page: string | undefined): boolean {
    if (page !== undefined && this.#pagesInStep.has(page)) return false;
    if (!this.#admit(cache, all, page)) return false;
    while (!cache.reserve(tokens)) {
      if (this.#takeFrom(cache)) continue;
      this.#short.add(cache.pool);
      return false;
    }
    this.#inStep.add(cache);
    if (page !== undefined) this.#noteComputed(page);
    return true;
  }

  /** Pools of which somebody wanted pages in this step, and nobody got any. */
  starved(): PageSource[] {
    if (this.#short.size > 0) for (const { pool } of this.#inStep) this.#short.delete(pool);
    return [...this.#short];
  }

  /** Takes the pages of all sequences of a pool that nobody is waiting for, and those that they were promised: who wanted some may try again. */
  clearIdle(pool: PageSource): void {
    for (const cache of this.#present) {
      if (cache.pool !== pool || this.#isWaitedFor(cache)) continue;
      if (cache.pageCount > 0) this.#putAside(cache);
      this.#admitted.delete(cache);
    }
    this.#full.delete(pool);
    this.#short.delete(pool);
  }

  #admit(cache: PagedSequence, tokens: number, page: string | undefined): boolean {
    if (this.#admitted.has(cache)) return true;
    const { pool } = cache;
    const needed = Math.min(cache.pagesFor(tokens + 1), pool.counts().pages - cache.pageCount); // one more: for the answer
    if (needed > this.#room(pool)) {
      this.#full.add(pool);
      this.#short.add(pool);
      cache.putAside();
      this.#refused.set(cache, { room: this.#room(pool), page });
      return false;
    }
    this.#admitted.set(cache, cache.pageCount + needed);
    this.#refused.delete(cache);
    return true;
  }

  /** Pages that nobody holds or was promised; there is always room for one by itself. */
  #room(pool: PageSource): number {
    const { pages, used } = pool.counts();
    let room = Infinity;
    for (const [cache, promised] of this.#admitted) {
      if (cache.pool !== pool) continue;
      if (room === Infinity) room = pages - used;
      room -= Math.max(promised - cache.pageCount, 0);
    }
    return room;
  }

  /** Who was refused and wants this page finds it soon, and needs one less. */
  #noteComputed(page: string): void {
    this.#pagesInStep.add(page);
    for (const [cache, refusal] of this.#refused) if (refusal.page === page) this.#refused.delete(cache);
  }

  #takeFrom(taker: PagedSequence): boolean {
    const arrivals = [...this.#present];
    const own = arrivals.indexOf(taker);
    for (let i = arrivals.length - 1; i >= 0; i--) {
      const cache = arrivals[i]!;
      if (cache === taker || cache.pool !== taker.pool || cache.pageCount === 0 || this.#inStep.has(cache)) continue;
      if (i < own && this.#isWaitedFor(cache)) continue;
      this.#putAside(cache);
      return true;
    }
    return false;
  }

  #putAside(cache: PagedSequence): void {
    cache.putAside();
    this.#admitted.delete(cache);
    this.preemptions++;
  }
}
