import { DeviceCache } from './device-cache.js';
import type { BatchPart } from './device-step.js';
import type { KvCache } from './kv-cache.js';

/** A part whose cache is in host memory, and its rows among those of a step: `first` to `first + ids.length`, at positions from `start` on. */
export interface PlacedPart extends BatchPart {
  readonly cache: KvCache;
  readonly first: number;
  readonly start: number;
}

/** The parts whose caches are in host memory, their rows one after another. */
export function placeOnHost(parts: readonly BatchPart[]): PlacedPart[] {
  const placed: PlacedPart[] = [];
  let first = 0;
  for (const { cache, ...part } of parts) {
    if (cache instanceof DeviceCache) continue;
    placed.push({ ...part, cache, first, start: cache.length });
    first += part.ids.length;
  }
  return placed;
}
