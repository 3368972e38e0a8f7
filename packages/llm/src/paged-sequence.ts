import type { PageCounts } from './page-pool.js';

/** Pages of 64 tokens that sequences share, wherever they lie. */
export interface PageSource {
  counts(): PageCounts;
}

/**
 * Keys and values of one sequence in pages of a pool, as those see it who share the pages out. It can be put aside: then its pages are free,
 * and the tokens it held are to be computed again.
 */
export interface PagedSequence {
  readonly pool: PageSource;
  /** Tokens whose keys and values are there. */
  readonly length: number;
  /** Tokens that were computed, whether the cache still holds them or was put aside. */
  readonly history: readonly number[];
  /** Pages that it holds. */
  readonly pageCount: number;
  readonly isDisposed: boolean;
  /** Tokens of a prompt that are computed together, where that is up to the cache. */
  readonly chunk: number | undefined;
  /**
   * … and where nobody minds a longer step. Undefined: a prompt's bits depend on its chunks. Where it is there they do not, as long as no call gets few
   * tokens that another cut would give to one of more.
   */
  readonly longChunk: number | undefined;
  /** Whether tokens of several calls may be computed in one, and be taken back without a trace. */
  readonly isExact: boolean;
  /** Whether what follows its tokens can be drawn where it lies, without their logits. */
  readonly canDraw: boolean;

  /** Pages that more tokens would take. */
  pagesFor(tokens: number): number;
  /**
   * Makes room for more tokens.
   *
   * @returns false when the pool has no page left; then nothing has changed.
   * @throws {IntFlashError} `ERR_DISPOSED`, `ERR_SHAPE` past the longest sequence.
   */
  reserve(tokens: number): boolean;
  /** Takes down that one call computed these tokens, which follow those that the cache held, perhaps for the second time. */
  settle(ids: readonly number[]): void;
  /** Tokens to compute again in the next call after {@link putAside}; 0 when none is missing. */
  readonly missing: number;
  /** Puts whole pages where sequences that begin alike find them. */
  publish(): void;
  /**
   * Takes over whole pages that others published.
   *
   * @param next What is to be computed behind {@link history}; its last token is never taken over, since somebody wants its logits.
   * @returns Tokens of `next` that the cache holds now.
   */
  adopt(next: readonly number[]): number;
  /** Names the page that would be computed next, where others might want the very same one. */
  nextPage(next: readonly number[]): string | undefined;
  /** Forgets all tokens from `length` on, those put aside too. */
  forget(length: number): void;
  /** Drops what is held of all tokens from `length` on. */
  truncate(length: number): void;
  /** Frees the pages; {@link missing} says what to compute before the cache can go on. */
  putAside(): void;
  /** Frees the memory; twice is a no-op. */
  dispose(): void;
}
