import { describe, expect, it } from 'vitest';
import { expectSameBits, firstDifference } from './same-bits.js';

describe('firstDifference', () => {
  it.each([
    ['nothing', [1, 2, 3], [1, 2, 3], -1],
    ['a number', [1, 2, 3], [1, 2, 4], 2],
    ['the sign of zero', [0, 0], [0, -0], 1],
    ['NaN and NaN', [Number.NaN, 1], [Number.NaN, 1], -1],
    ['a length', [1, 2], [1, 2, 3], 2],
  ])('finds %s', (_, a, b, at) => {
    expect(firstDifference(Float32Array.from(a), Float32Array.from(b))).toBe(at);
  });
  it('looks at an array’s own part of its memory', () => {
    const memory = Int8Array.from([9, 1, 2, 3, 8]);
    expect(firstDifference(memory.subarray(1, 4), Int8Array.from([1, 2, 3]))).toBe(-1);
    expect(firstDifference(memory.subarray(1, 4), Int8Array.from([1, 5, 3]))).toBe(1);
  });
});

describe('expectSameBits', () => {
  it('passes what is the same, and says where the rest differs', () => {
    expectSameBits(Uint16Array.of(1, 2), Uint16Array.of(1, 2));
    expect(() => expectSameBits(Float32Array.of(1, 2), Float32Array.of(1, 5))).toThrow('2 instead of 5 at 1');
    expect(() => expectSameBits(Float32Array.of(1), Float32Array.of(1, 2))).toThrow();
    expect(() => expectSameBits(Int8Array.of(1), Uint8Array.of(1))).toThrow();
  });
});
