import type { Backend, KeyScales } from '@int-flash/ops';
import { createKvCacheLayer, type KvCacheDtype, type KvCacheLayer, type LayerState } from './kv-cache-layer.js';
import { type PageCounts, PagePool } from './page-pool.js';
import type { SharedPages } from './page-table.js';
import { PrefixTree } from './prefix-tree.js';

export interface KvCachePoolShape {
  readonly layers: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly dtype: KvCacheDtype;
  /** Of 64 tokens. */
  readonly pages: number;
  /** Keep what was computed for prompts to come that begin alike; true by default. */
  readonly keepsPrefixes?: boolean;
  /** Of INT8 and INT4; `token` by default. */
  readonly keyScales?: KeyScales | undefined;
}

/**
 * The pages that a model's sequences share, all layers, for one way of storing keys and values.
 *
 * Its memory is reserved at once, and taken from the system as pages are first written to.
 */
export class KvCachePool implements SharedPages<readonly LayerState[]> {
  readonly shape: KvCachePoolShape;
  readonly layers: readonly KvCacheLayer[];
  readonly pages: PagePool;
  readonly prefixes: PrefixTree<readonly LayerState[]> | undefined;
  readonly pageBytes: number;

  /** @param backend Quantizes what goes into it, where it has a way of its own. */
  constructor(shape: KvCachePoolShape, backend?: Backend) {
    this.shape = shape;
    this.layers = Array.from({ length: shape.layers }, () =>
      createKvCacheLayer(shape.dtype, shape.kvHeads, shape.headDim, shape.pages, backend, shape.keyScales),
    );
    this.pages = new PagePool(shape.pages);
    this.prefixes = shape.keepsPrefixes === false ? undefined : new PrefixTree(this.pages);
    this.pageBytes = this.layers.reduce((sum, layer) => sum + layer.pageBytes, 0);
  }

  counts(): PageCounts {
    return this.pages.counts();
  }
}
