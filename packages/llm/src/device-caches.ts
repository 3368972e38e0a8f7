import { type Decoder, type DecoderMemory, KV_PAGE_TOKENS } from '@int-flash/ops';
import { DEVICE_CHUNK, DeviceCache, type DeviceDtype, LONGEST_CHUNK } from './device-cache.js';
import { DevicePages } from './device-pages.js';
import type { KvCacheSettings } from './kv-caches.js';
import type { ModelConfig } from './model-config.js';
import { countPages } from './page-limit.js';
import { type PageCounts, sumCounts } from './page-pool.js';

/** Where nothing is said, a pool takes no more than this part of the device's memory that is left: steps need some, and so do others who use it. */
const MEMORY_PART = 3 / 4;
/** Of what the pools leave, steps may have this part. */
const STEP_PART = 1 / 2;

/** A model's caches in a device's memory: a pool of pages for each way of storing keys and values, made when it is first wanted. */
export class DeviceCaches {
  readonly #config: ModelConfig;
  readonly #settings: KvCacheSettings;
  readonly #memory: DecoderMemory;
  readonly #liveBytes: () => number;
  readonly #pools = new Map<DeviceDtype, DevicePages>();

  /** @param liveBytes What all that lives on the device takes, the weights for one. */
  constructor(config: ModelConfig, settings: KvCacheSettings, memory: DecoderMemory, liveBytes: () => number) {
    this.#config = config;
    this.#settings = settings;
    this.#memory = memory;
    this.#liveBytes = liveBytes;
  }

  /** Tokens that the longest sequence may have. @throws {IntFlashError} as {@link countPages}. */
  contextLength(dtype: DeviceDtype): number {
    return Math.min(this.#config.maxPositions, this.#pool(dtype).counts().pages * KV_PAGE_TOKENS);
  }

  create(dtype: DeviceDtype, decoder: Decoder): DeviceCache {
    const { vocabSize } = this.#config;
    const { keyScales } = this.#settings;
    const maxTokens = this.contextLength(dtype);
    const pool = this.#pool(dtype);
    return new DeviceCache(decoder, pool, { dtype, keyScales, vocabSize, maxTokens, longChunk: pool.longChunk });
  }

  /** Bytes of the device's memory that sequences hold. */
  get bytes(): number {
    return [...this.#pools.values()].reduce((sum, pool) => sum + pool.bytes, 0);
  }

  /** Of all pools that were wanted so far. */
  counts(): PageCounts {
    return sumCounts([...this.#pools.values()].map((pool) => pool.counts()));
  }

  /** Forgets what is kept for sequences to come: it belongs to a decoder that ends. */
  clear(): void {
    for (const pool of this.#pools.values()) pool.giveUpKept();
  }

  #pool(dtype: DeviceDtype): DevicePages {
    const made = this.#pools.get(dtype);
    if (made) return made;
    const { maxPositions } = this.#config;
    const pageBytes = this.#memory.pageBytes[dtype];
    const left = this.#leftBytes();
    const { keepsPrefixes } = this.#settings;
    const pages = countPages({ pageBytes, bytes: this.#limit(), mostBytes: MEMORY_PART * left, maxPositions });
    const longChunk = this.#longChunk(left - pages * pageBytes);
    const pool = new DevicePages(pages, { pageBytes, longChunk, keepsPrefixes: keepsPrefixes !== false });
    this.#pools.set(dtype, pool);
    return pool;
  }

  /** What pages may take, if that was said; more than the device has could not be reserved at all. */
  #limit(): number | undefined {
    const { bytes } = this.#settings;
    return bytes === undefined ? undefined : Math.min(bytes, this.#memory.deviceBytes);
  }

  /** Whole chunks that a step has room for in so many bytes. */
  #longChunk(bytes: number): number {
    const chunks = Math.floor((STEP_PART * bytes) / this.#memory.tokenBytes / DEVICE_CHUNK);
    return Math.min(Math.max(chunks, 1) * DEVICE_CHUNK, LONGEST_CHUNK);
  }

  /** What neither other things have nor the pools that were made so far may take. */
  #leftBytes(): number {
    const { deviceBytes, pageBytes } = this.#memory;
    let promised = 0;
    let ours = 0;
    for (const [dtype, pool] of this.#pools) {
      promised += pool.counts().pages * pageBytes[dtype];
      ours += pool.liveBytes;
    }
    return deviceBytes - promised - (this.#liveBytes() - ours);
  }
}
