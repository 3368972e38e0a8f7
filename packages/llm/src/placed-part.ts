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

/** The last `counts[i]` rows of each part, one after another: `rows` themselves where that is all. @param rows Of a step, [tokens, width] */
export function lastRows(
  parts: readonly PlacedPart[],
  counts: readonly number[],
  rows: Float32Array,
  width: number,
): Float32Array {
  const length = counts.reduce((sum, count) => sum + count, 0) * width;
  if (length === rows.length) return rows;
  const out = new Float32Array(length);
  let filled = 0;
  for (const [i, { first, ids }] of parts.entries()) {
    const end = first + ids.length;
    out.set(rows.subarray((end - counts[i]!) * width, end * width), filled * width);
    filled += counts[i]!;
  }
  return out;
}
