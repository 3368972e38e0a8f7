import { totalmem } from 'node:os';
import { type Backend, IntFlashError, KV_PAGE_TOKENS } from '@int-flash/ops';
import { KvCache } from './kv-cache.js';
import { type KvCacheDtype, layerPageBytes } from './kv-cache-layer.js';
import { KvCachePool } from './kv-cache-pool.js';
import type { AttentionChoice } from './layers/attention.js';
import type { ModelConfig } from './model-config.js';
import type { PageCounts } from './page-pool.js';

/** Sequences of full length that a pool has pages for where nothing else is said. */
const SEQUENCES = 64;
/** … unless that would be more than this part of the machine's memory. */
const MEMORY_PART = 1 / 4;

export interface KvCacheLimits {
  /** What all sequences' keys and values may take, for each way of storing them. */
  readonly bytes?: number | undefined;
  /** Keep what was computed for prompts to come that begin alike. */
  readonly keepsPrefixes?: boolean | undefined;
}

/** A model's caches in host memory: a pool of pages for each way of storing keys and values, made when it is first wanted. */
export class KvCaches {
  readonly #config: ModelConfig;
  readonly #limits: KvCacheLimits;
  readonly #backend: Backend | undefined;
  readonly #pools = new Map<KvCacheDtype, KvCachePool>();

  constructor(config: ModelConfig, limits: KvCacheLimits = {}, backend?: Backend) {
    this.#backend = backend;
    this.#config = config;
    this.#limits = limits;
  }

  /**
   * Tokens that the longest sequence may have.
   *
   * @throws {IntFlashError} `ERR_ARG_RANGE` when there is no memory for a single page.
   */
  contextLength(dtype: KvCacheDtype): number {
    return Math.min(this.#config.maxPositions, this.#pages(dtype) * KV_PAGE_TOKENS);
  }

  /** @param chunk Tokens of a prompt computed together. @param isExact As {@link KvCache} has it; only such caches share pages. */
  create(attention: AttentionChoice, dtype: KvCacheDtype, chunk: number, isExact: boolean): KvCache {
    return new KvCache(this.#pool(dtype), {
      maxTokens: this.contextLength(dtype),
      isExact,
      chunk,
      space: isExact ? attention : undefined,
    });
  }

  /** Bytes of the pages that sequences hold. */
  get bytes(): number {
    return [...this.#pools.values()].reduce((sum, pool) => sum + pool.counts().used * pool.pageBytes, 0);
  }

  /** Of all pools that were wanted so far. */
  counts(): PageCounts {
    const all = [...this.#pools.values()].map((pool) => pool.counts());
    const total = (key: keyof PageCounts) => all.reduce((sum, counts) => sum + counts[key], 0);
    return { pages: total('pages'), used: total('used'), kept: total('kept') };
  }

  #pool(dtype: KvCacheDtype): KvCachePool {
    const made = this.#pools.get(dtype);
    if (made) return made;
    const { layers, kvHeads, headDim } = this.#config;
    const keepsPrefixes = this.#limits.keepsPrefixes !== false;
    const shape = { layers, kvHeads, headDim, dtype, pages: this.#pages(dtype), keepsPrefixes };
    const pool = new KvCachePool(shape, this.#backend);
    this.#pools.set(dtype, pool);
    return pool;
  }

  #pages(dtype: KvCacheDtype): number {
    const { layers, kvHeads, headDim, maxPositions } = this.#config;
    const pageBytes = layers * layerPageBytes(dtype, kvHeads, headDim);
    const { bytes } = this.#limits;
    if (bytes !== undefined) {
      const pages = Math.floor(bytes / pageBytes);
      if (pages > 0) return pages;
      throw new IntFlashError(
        'ERR_ARG_RANGE',
        `Expected a KV cache of at least ${pageBytes} bytes, a page of ${KV_PAGE_TOKENS} tokens, got ${bytes}`,
      );
    }
    const wanted = SEQUENCES * Math.ceil(maxPositions / KV_PAGE_TOKENS);
    return Math.max(Math.min(wanted, Math.floor((totalmem() * MEMORY_PART) / pageBytes)), 1);
  }
}
