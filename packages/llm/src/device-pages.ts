import type { DecoderPage } from '@int-flash/ops';
import { type PageCounts, PagePool } from './page-pool.js';
import type { SharedPages } from './page-table.js';
import { PrefixTree } from './prefix-tree.js';

/**
 * Pages on a device for one way of storing keys and values: counted here, and taken from its memory by the decoder when a step needs them. One that
 * is kept is there as long as its {@link DecoderPage} is.
 */
export class DevicePages implements SharedPages<DecoderPage> {
  readonly pages: PagePool;
  readonly prefixes: PrefixTree<DecoderPage> | undefined;
  readonly pageBytes: number;
  /** Tokens of a prompt that a step has room for beside the pages. */
  readonly longChunk: number;
  /** What sequences take of the device's memory besides pages. */
  besides = 0;

  constructor(
    pages: number,
    {
      pageBytes,
      longChunk,
      keepsPrefixes,
    }: { readonly pageBytes: number; readonly longChunk: number; readonly keepsPrefixes: boolean },
  ) {
    this.pages = new PagePool(pages);
    this.prefixes = keepsPrefixes ? new PrefixTree(this.pages, (page) => page.dispose()) : undefined;
    this.pageBytes = pageBytes;
    this.longChunk = longChunk;
  }

  counts(): PageCounts {
    return this.pages.counts();
  }

  /** Gives back what is kept for sequences to come. @returns whether there was anything */
  giveUpKept(): boolean {
    const { kept } = this.counts();
    this.prefixes?.clear();
    return this.counts().kept < kept;
  }

  /** Of the device's memory that sequences hold. */
  get bytes(): number {
    return this.counts().used * this.pageBytes + this.besides;
  }

  /** … and what is kept for sequences to come. */
  get liveBytes(): number {
    return this.counts().kept * this.pageBytes + this.bytes;
  }
}
