import type { AttentionPlan } from '@int-flash/ops';

/** Keys of a tile by head dimension, and the parts of it that a sequence's last tile may end after; kernels/sorted_layout.h has them. */
function lastTile(keys: number, headDim: number): { readonly keys: number; readonly slots: number } {
  const tileKeys = headDim <= 64 ? 192 : 128;
  const left = keys % tileKeys;
  return { keys: left, slots: [64, 128].find((slots) => tileKeys > 128 && left <= slots) ?? tileKeys };
}

/**
 * Whether the kernels on sorted tiles may take a key that is not there, or not seen, for a row's largest. Three quarters of a tile's slots, those of
 * the smallest keys, share a scale. Where they hold nothing but keys that are not there (a last tile with few) or that are zero (without smooth-K),
 * their maximum is 0 and not the least number: rows whose scores lie far below 0 lose what they see of the tile. `auto` leaves such calls to the
 * portable kernel.
 */
export function mayLoseRows(plan: AttentionPlan): boolean {
  if (plan.precision !== 'full-int8') return false;
  const headDim = Math.max(plan.headDim, plan.headDimV);
  const isMasked = Number.isFinite(plan.windowLeft) || Number.isFinite(plan.windowRight);
  return plan.sequences.some(({ kLen }) => {
    const { keys, slots } = lastTile(kLen, headDim);
    return (keys > 0 && keys <= slots / 4) || (!plan.smoothK && (isMasked || keys > 0));
  });
}
