import type { Backend, KeyScales } from '@int-flash/ops';
import type { DeviceDtype } from './device-cache.js';
import { DeviceCaches } from './device-caches.js';
import { HostCaches } from './host-caches.js';
import { isFloat, type KvCacheDtype } from './kv-cache-layer.js';
import type { AttentionChoice } from './layers/attention.js';
import type { ModelConfig } from './model-config.js';
import { type PageCounts, sumCounts } from './page-pool.js';

export interface KvCacheSettings {
  /** What all sequences' keys and values may take, for each way of storing them. */
  readonly bytes?: number | undefined;
  /** Keep what was computed for prompts to come that begin alike. */
  readonly keepsPrefixes?: boolean | undefined;
  /** Of keys in INT8 and INT4; `token` by default. */
  readonly keyScales?: KeyScales | undefined;
}

/** Whether this is what a decoder on a device computes: INT8 attention on codes. */
export function suitsDevice(attention: AttentionChoice, dtype: KvCacheDtype): dtype is DeviceDtype {
  return attention === 'int8' && !isFloat(dtype);
}

/** A model's caches, in host memory and on the backend's device. */
export class KvCaches {
  readonly host: HostCaches;
  /** Undefined where the backend has no memory of its own, or does not run such a model there. */
  readonly device: DeviceCaches | undefined;
  readonly keyScales: KeyScales;

  constructor(config: ModelConfig, settings: KvCacheSettings = {}, backend?: Backend) {
    this.host = new HostCaches(config, settings, backend);
    this.keyScales = settings.keyScales ?? 'token';
    const memory = backend?.decoderMemory?.(config);
    this.device = memory && new DeviceCaches(config, settings, memory, () => backend!.liveBytes());
  }

  /**
   * Tokens that the longest sequence may have: the model's positions, or what the memory holds.
   *
   * @throws {IntFlashError} `ERR_ARG_RANGE` when there is no memory for a single page.
   */
  contextLength(attention: AttentionChoice, dtype: KvCacheDtype): number {
    return this.device && suitsDevice(attention, dtype)
      ? this.device.contextLength(dtype)
      : this.host.contextLength(dtype);
  }

  /** Bytes that sequences hold. */
  get bytes(): number {
    return this.host.bytes + (this.device?.bytes ?? 0);
  }

  /** Of all pools that were wanted so far. */
  counts(): PageCounts {
    return sumCounts([this.host.counts(), ...(this.device ? [this.device.counts()] : [])]);
  }
}
