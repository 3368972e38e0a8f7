import type { TensorData } from '@int-flash/ops';
import { expect } from 'vitest';

/** Where two arrays' bits differ first; -1 where they are the same. */
export function firstDifference(a: TensorData, b: TensorData): number {
  if (a.length !== b.length) return Math.min(a.length, b.length);
  const [left, right] = [bytesIn(a), bytesIn(b)];
  if (left.equals(right)) return -1;
  return Math.floor(left.findIndex((byte, i) => byte !== right[i]) / a.BYTES_PER_ELEMENT);
}

/** NaN is like NaN, and 0 not like -0. `toEqual` would look at each number by itself: some microseconds for each of millions. */
export function expectSameBits(got: TensorData, expected: TensorData, what = ''): void {
  expect(got[Symbol.toStringTag], what).toBe(expected[Symbol.toStringTag]);
  expect(got.length, what).toBe(expected.length);
  const at = firstDifference(got, expected);
  expect(at < 0 ? 'the same bits' : `${got[at]} instead of ${expected[at]} at ${at}`, what).toBe('the same bits');
}

function bytesIn({ buffer, byteOffset, byteLength }: TensorData): Buffer {
  return Buffer.from(buffer, byteOffset, byteLength);
}
