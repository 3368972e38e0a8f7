import type { Decoder, DrawRules } from '@int-flash/ops';
import { DeviceCache } from './device-cache.js';
import type { KvCache } from './kv-cache.js';
import type { AttentionChoice } from './layers/attention.js';
import type { Pace } from './pace.js';

/** One sequence's keys and values, in host memory or on the backend's device. */
export type SequenceCache = KvCache | DeviceCache;

/** One sequence's share of a step over several: its next tokens, at most a chunk of them. */
export interface BatchPart {
  readonly ids: readonly number[];
  /** Holds the tokens before, and these afterwards. */
  readonly cache: SequenceCache;
  readonly attention: AttentionChoice;
  /** Wants the logits after each of its tokens, not after the last only. */
  readonly wantsAll?: boolean | undefined;
  /** What follows its last tokens is wanted, so many as there are rules, and not their logits. Only of a cache on the device, which draws it there. */
  readonly draw?: readonly DrawRules[] | undefined;
}

/** Logits after a part's last token, [vocabSize], or after each, [ids.length, vocabSize]; or the tokens that were drawn. */
export type PartOutcome = Float32Array | Int32Array;

/** Rows of logits in a step as long as one part does not want more: each takes a vocabulary of floats, on the device and where they travel, on the host. */
const MOST_ROWS = { drawn: 256, told: 64 };

/**
 * Runs those of `parts` whose caches lie on a device: a step for each type of cache and of outcome, or a few where many logits are wanted.
 *
 * @param decoder Asked for only where there are any.
 */
export async function stepOnDevice(
  decoder: () => Decoder,
  parts: readonly BatchPart[],
  pace: Pace,
): Promise<ReadonlyMap<SequenceCache, PartOutcome>> {
  const found = new Map<SequenceCache, PartOutcome>();
  const note = (group: readonly { cache: DeviceCache }[], outcomes: readonly PartOutcome[]) => {
    group.forEach(({ cache }, i) => {
      found.set(cache, outcomes[i]!);
    });
  };
  for (const type of ['int8', 'int4'] as const) {
    const ours = parts.flatMap(({ cache, ids, draw, wantsAll }) => {
      if (!(cache instanceof DeviceCache) || cache.dtype !== type) return [];
      return [{ cache, ids, draw, wanted: draw?.length ?? (wantsAll ? ids.length : 1) }];
    });
    const drawing = ours.flatMap(({ draw, ...part }) => (draw ? [{ ...part, draw }] : []));
    for (const group of inSteps(drawing, MOST_ROWS.drawn))
      note(group, await DeviceCache.drawTogether(decoder(), group, pace));
    const telling = ours.filter(({ draw }) => !draw);
    for (const group of inSteps(telling, MOST_ROWS.told))
      note(group, await DeviceCache.forwardTogether(decoder(), group, pace));
  }
  return found;
}

/** Parts that share a step. */
function inSteps<Part extends { readonly wanted: number }>(parts: readonly Part[], mostRows: number): Part[][] {
  const groups: Part[][] = [];
  let rows = mostRows;
  for (const part of parts) {
    if (rows + part.wanted > mostRows) {
      groups.push([]);
      rows = 0;
    }
    groups.at(-1)!.push(part);
    rows += part.wanted;
  }
  return groups;
}
