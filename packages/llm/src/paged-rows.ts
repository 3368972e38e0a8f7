import { KV_PAGE_TOKENS } from '@int-flash/ops';

/** The row of a sequence's token among the rows of a head. */
export function rowOf(pages: Int32Array, token: number): number {
  const inPage = token % KV_PAGE_TOKENS;
  return pages[(token - inPage) / KV_PAGE_TOKENS]! * KV_PAGE_TOKENS + inPage;
}

/** Copies one page of every head to another place in an array of [heads, capacity, width]. */
export function copyPageRows(
  rows: Float32Array | Uint16Array | Int8Array | Uint8Array,
  { heads, capacity, width }: { readonly heads: number; readonly capacity: number; readonly width: number },
  from: number,
  to: number,
): void {
  const size = KV_PAGE_TOKENS * width;
  for (let head = 0; head < heads; head++) {
    const start = head * capacity * width;
    rows.copyWithin(start + to * size, start + from * size, start + (from + 1) * size);
  }
}
