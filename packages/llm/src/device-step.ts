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

/**
 * Runs those of `parts` whose caches lie on a device: a step for each type of cache and of outcome.
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
  for (const { cache, ids, wantsAll } of parts)
    if (cache instanceof DeviceCache && wantsAll) found.set(cache, await allLogits(cache, ids, pace));
  for (const type of ['int8', 'int4'] as const) {
    const ours = parts.flatMap(({ cache, ids, draw, wantsAll }) =>
      cache instanceof DeviceCache && cache.dtype === type && !wantsAll ? [{ cache, ids, draw }] : [],
    );
    const drawing = ours.flatMap(({ draw, ...part }) => (draw ? [{ ...part, draw }] : []));
    const others = ours.filter(({ draw }) => !draw);
    if (drawing.length > 0) note(drawing, await DeviceCache.drawTogether(decoder(), drawing, pace));
    if (others.length > 0) note(others, await DeviceCache.forwardTogether(decoder(), others, pace));
  }
  return found;
}

async function allLogits(cache: DeviceCache, ids: readonly number[], pace: Pace): Promise<Float32Array> {
  const rows: Float32Array[] = [];
  await cache.forward(ids, { pace, chunk: ids.length }, (logits) => rows.push(logits));
  return rows[0]!;
}
