import { IntFlashError, KV_PAGE_TOKENS } from '@int-flash/ops';

/** Sequences of full length that there are pages for where nothing else is said. */
const SEQUENCES = 64;

export interface PageLimit {
  readonly pageBytes: number;
  /** What all pages may take; undefined where nothing is said. */
  readonly bytes: number | undefined;
  /** … and what they take at most then. */
  readonly mostBytes: number;
  /** Tokens of the longest sequence. */
  readonly maxPositions: number;
}

/** Pages that tokens take. */
export function pagesOf(tokens: number): number {
  return Math.ceil(tokens / KV_PAGE_TOKENS);
}

/**
 * How many pages sequences share.
 *
 * @throws {IntFlashError} `ERR_ARG_RANGE` when there is no memory for a single page.
 */
export function countPages({ pageBytes, bytes, mostBytes, maxPositions }: PageLimit): number {
  if (bytes === undefined)
    return Math.max(Math.min(SEQUENCES * pagesOf(maxPositions), Math.floor(mostBytes / pageBytes)), 1);
  const pages = Math.floor(bytes / pageBytes);
  if (pages > 0) return pages;
  throw new IntFlashError(
    'ERR_ARG_RANGE',
    `Expected a KV cache of at least ${pageBytes} bytes, a page of ${KV_PAGE_TOKENS} tokens, got ${bytes}`,
  );
}
