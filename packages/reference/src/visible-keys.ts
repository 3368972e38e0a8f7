import type { AttentionGeometry, MaskOperand, SequenceSpan } from '@int-flash/ops';

/** Keys [first, end) that the band lets query `query` of a sequence attend; end <= first when there are none. */
export function visibleBand(
  { windowLeft, windowRight, diagonal }: Pick<AttentionGeometry, 'windowLeft' | 'windowRight' | 'diagonal'>,
  { qLen, kLen }: Pick<SequenceSpan, 'qLen' | 'kLen'>,
  query: number,
): { first: number; end: number } {
  const position = query + (diagonal === 'bottom-right' ? kLen - qLen : 0);
  return { first: Math.max(0, position - windowLeft), end: Math.min(kLen, position + windowRight + 1) };
}

/** What the mask adds to the scaled score of (query, key): 0 without a mask, -Infinity for an excluded key. */
export function maskValue(
  mask: MaskOperand | undefined,
  batch: number,
  head: number,
  query: number,
  key: number,
): number {
  if (!mask) return 0;
  const { strides, data } = mask;
  const entry = data[batch * strides.batch + head * strides.head + query * strides.query + key * strides.key]!;
  if (mask.type === 'float32') return entry;
  return entry === 0 ? -Infinity : 0;
}
