import type { SequenceSpan } from './attention-plan.js';
import { checkBuffer } from './buffer-check.js';
import { describe } from './describe.js';
import { IntFlashError } from './int-flash-error.js';
import { checkInteger } from './option-check.js';
import { plainArray, typedArrayKind } from './plain-array.js';

/**
 * Reads flash-attn's cumulative sequence lengths: sequence s owns rows [cu[s], cu[s + 1]).
 *
 * @param given Options with `cuSeqlensQ`, `cuSeqlensK` (Int32Array or integer arrays, starting at 0, never falling, ending at the
 *   token count) and optionally `maxSeqlenQ`, `maxSeqlenK` (checked, not needed).
 */
export function judgeSequenceOffsets(given: Record<string, unknown>, totalQ: number, totalK: number): SequenceSpan[] {
  const q = readOffsets(given.cuSeqlensQ, 'cuSeqlensQ', totalQ);
  const k = readOffsets(given.cuSeqlensK, 'cuSeqlensK', totalK);
  if (q.length !== k.length) {
    throw new IntFlashError(
      'ERR_SHAPE',
      `Expected cuSeqlensK to have ${q.length} entries like cuSeqlensQ, got ${k.length}`,
    );
  }
  const spans = Array.from({ length: q.length - 1 }, (_, s) => ({
    qStart: q[s]!,
    qLen: q[s + 1]! - q[s]!,
    kStart: k[s]!,
    kLen: k[s + 1]! - k[s]!,
  }));
  const longest = (side: 'qLen' | 'kLen') => spans.reduce((max, span) => Math.max(max, span[side]), 0);
  checkMaximum(given.maxSeqlenQ, 'maxSeqlenQ', longest('qLen'));
  checkMaximum(given.maxSeqlenK, 'maxSeqlenK', longest('kLen'));
  return spans;
}

function checkMaximum(value: unknown, name: string, longest: number): void {
  const maximum = checkInteger(value, name, longest, 0, 2 ** 31 - 1);
  if (maximum < longest)
    throw new IntFlashError(
      'ERR_SHAPE',
      `Expected ${name} to be at least the longest sequence, ${longest}, got ${maximum}`,
    );
}

function readOffsets(value: unknown, name: string, total: number): readonly number[] {
  const typed = typedArrayKind(value) === 'Int32Array';
  if (!typed && !Array.isArray(value)) {
    throw new IntFlashError(
      'ERR_ARG_TYPE',
      `Expected ${name} to be an Int32Array or an array of integers, got ${describe(value)}`,
    );
  }
  if (typed) checkBuffer(value as Int32Array, name);
  const entries = typed ? plainArray(value as Int32Array) : (value as readonly unknown[]);
  const offsets = Array.from<unknown, number>(entries, (entry, i) =>
    checkInteger(entry ?? null, `${name}[${i}]`, 0, 0, 2 ** 31 - 1),
  );
  if (offsets.length < 2 || offsets[0] !== 0)
    throw new IntFlashError(
      'ERR_SHAPE',
      `Expected ${name} to start with 0 and hold at least 2 entries, got [${offsets.slice(0, 4).join(', ')}]`,
    );
  const fall = offsets.findIndex((offset, i) => i > 0 && offset < offsets[i - 1]!);
  if (fall > 0)
    throw new IntFlashError(
      'ERR_SHAPE',
      `Expected ${name} never to fall, got ${offsets[fall - 1]} then ${offsets[fall]} at entry ${fall}`,
    );
  if (offsets[offsets.length - 1] !== total) {
    throw new IntFlashError(
      'ERR_SHAPE',
      `Expected ${name} to end at the number of tokens, ${total}, got ${offsets[offsets.length - 1]}`,
    );
  }
  return offsets;
}
