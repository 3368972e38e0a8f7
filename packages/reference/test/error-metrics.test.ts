import { describe, expect, it } from 'vitest';
import { cosine, meanRelativeError, paperMre, relativeL2, rmse, rowErrorQuantile, worstElement } from '../src/index.js';

describe('error metrics', () => {
  it('give the numbers worked out by hand', () => {
    expect(relativeL2([3, 5], [3, 4])).toBeCloseTo(0.2, 12);
    expect(relativeL2([0, 0], [0, 0])).toBe(0);
    expect(relativeL2([1, 0], [0, 0])).toBe(Infinity);
    expect(rmse([1, 2, 3, 8], [1, 2, 3, 4])).toBe(2);
    expect(cosine([1, 0], [0, 2])).toBe(0);
    expect(cosine([2, 4], [1, 2])).toBeCloseTo(1, 12);
    expect(meanRelativeError([1.1, 2], [1, 2], 0)).toBeCloseTo(0.05, 12);
  });

  it('paperMre looks at the last four values and nothing else', () => {
    expect(paperMre([100, 1, 1, 1, 2], [1, 1, 1, 1, 1])).toBeCloseTo(0.25 / (1 + 1e-5), 12);
    expect(paperMre([0, 0, 0, 1], [0, 0, 0, 0])).toBeCloseTo(1e5 / 4, 6); // the script adds 1e-5 to each reference value
  });

  it('worstElement names the element, and takes NaN for the worst', () => {
    expect(worstElement([0, 0, 0, 5, 0, 0], [0, 0, 0, 1, 0, 0], [2, 3])).toMatchObject({
      error: 4,
      index: 3,
      coordinates: [1, 0],
    });
    expect(worstElement([Number.NaN, 9], [0, 0], [2]).error).toBe(Infinity);
    expect(worstElement([-Infinity], [-Infinity], [1]).error).toBe(0);
  });

  it('rowErrorQuantile ranks rows', () => {
    const expected = new Float32Array(200).fill(1);
    const actual = expected.slice();
    actual.fill(2, 196, 198); // row 98 of 100 is off by 100%
    actual.fill(3, 198, 200); // row 99 by 200%
    expect(rowErrorQuantile(actual, expected, 2, 0.99)).toBe(1);
    expect(rowErrorQuantile(actual, expected, 2, 1)).toBe(2);
  });

  it('refuse arrays of different lengths', () => {
    for (const metric of [relativeL2, rmse, cosine, meanRelativeError, paperMre])
      expect(() => metric([1], [1, 2])).toThrow(expect.objectContaining({ code: 'ERR_SHAPE' }));
  });
});
