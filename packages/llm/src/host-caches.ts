import { totalmem } from 'node:os';
import { type Backend, KV_PAGE_TOKENS } from '@int-flash/ops';
import { KvCache } from './kv-cache.js';
import { type KvCacheDtype, layerPageBytes } from './kv-cache-layer.js';
import { KvCachePool, type KvCachePoolShape } from './kv-cache-pool.js';
import type { KvCacheSettings } from './kv-caches.js';
import type { AttentionChoice } from './layers/attention.js';
import type { ModelConfig } from './model-config.js';
import { noRoomForPages } from './out-of-memory.js';
import { countPages } from './page-limit.js';
import { type PageCounts, sumCounts } from './page-pool.js';

/** Where nothing is said, a pool takes no more than this part of the machine's memory. */
const MEMORY_PART = 1 / 4;

/** A model's caches in host memory: a pool of pages for each way of storing keys and values, made when it is first wanted. */
export class HostCaches {
  readonly #config: ModelConfig;
  readonly #settings: KvCacheSettings;
  readonly #backend: Backend | undefined;
  readonly #pools = new Map<KvCacheDtype, KvCachePool>();

  constructor(config: ModelConfig, settings: KvCacheSettings, backend?: Backend) {
    this.#backend = backend;
    this.#config = config;
    this.#settings = settings;
  }

  /** Tokens that the longest sequence may have. @throws {IntFlashError} as {@link countPages}. */
  contextLength(dtype: KvCacheDtype): number {
    return Math.min(this.#config.maxPositions, this.#pages(dtype) * KV_PAGE_TOKENS);
  }

  /**
   * @param chunk Tokens of a prompt computed together.
   * @param isExact As {@link KvCache} has it; only such caches share pages.
   * @throws {IntFlashError} `ERR_OOM` where the memory that all sequences may take is not there.
   */
  create(attention: AttentionChoice, dtype: KvCacheDtype, chunk: number, isExact: boolean): KvCache {
    return new KvCache(this.#pool(dtype), {
      maxTokens: this.contextLength(dtype),
      isExact,
      chunk,
      space: isExact ? `${attention}/${dtype}` : undefined,
    });
  }

  /** Bytes of the pages that sequences hold. */
  get bytes(): number {
    return [...this.#pools.values()].reduce((sum, pool) => sum + pool.counts().used * pool.pageBytes, 0);
  }

  /** Of all pools that were wanted so far. */
  counts(): PageCounts {
    return sumCounts([...this.#pools.values()].map((pool) => pool.counts()));
  }

  #pool(dtype: KvCacheDtype): KvCachePool {
    const made = this.#pools.get(dtype);
    if (made) return made;
    const { layers, kvHeads, headDim } = this.#config;
    const keepsPrefixes = this.#settings.keepsPrefixes !== false;
    const { keyScales } = this.#settings;
    const shape = { layers, kvHeads, headDim, dtype, pages: this.#pages(dtype), keepsPrefixes, keyScales };
    const pool = this.#reserve(shape);
    this.#pools.set(dtype, pool);
    return pool;
  }

  #reserve(shape: KvCachePoolShape): KvCachePool {
    try {
      return new KvCachePool(shape, this.#backend);
    } catch (error) {
      if (!(error instanceof RangeError)) throw error; // arrays that are too long, or that the system does not give
      const { layers, dtype, kvHeads, headDim, pages } = shape;
      throw noRoomForPages(pages * layers * layerPageBytes(dtype, kvHeads, headDim), error);
    }
  }

  #pages(dtype: KvCacheDtype): number {
    const { layers, kvHeads, headDim, maxPositions } = this.#config;
    const pageBytes = layers * layerPageBytes(dtype, kvHeads, headDim);
    return countPages({ pageBytes, bytes: this.#settings.bytes, mostBytes: totalmem() * MEMORY_PART, maxPositions });
  }
}
