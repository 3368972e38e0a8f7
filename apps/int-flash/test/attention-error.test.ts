import { describe, expect, it } from 'vitest';
import { compareLogits, poolDifferences } from '../src/attention-error.js';

describe('compareLogits', () => {
  it('measures the distance, the worst element and the agreement of the first choice', () => {
    const truth = Float32Array.of(3, 0, -3, 1, 2, -3);
    const got = Float32Array.of(3, 0, -3, 2, 1, -3); // second row: the first two have changed places
    expect(compareLogits(got, truth, 3)).toEqual({
      relativeL2: Math.sqrt(2 / 32),
      maxAbsolute: 1,
      sameGreedyToken: 1,
      positions: 2,
      squaredTruth: 32,
    });
  });

  it('does not see a constant added to a row, to which softmax is blind', () => {
    const truth = Float32Array.of(3, 0, -3);
    expect(compareLogits(Float32Array.of(8, 5, 2), truth, 3)).toMatchObject({ relativeL2: 0, maxAbsolute: 0 });
  });

  it('pools texts as if they were one', () => {
    const truth = Float32Array.of(3, 0, -3, 1, 2, -3, 5, -4, -1);
    const got = Float32Array.of(3.5, -0.5, -3, 2, 1, -3, 5, -4, -1);
    const whole = compareLogits(got, truth, 3);
    const parts = [
      compareLogits(got.slice(0, 3), truth.slice(0, 3), 3),
      compareLogits(got.slice(3), truth.slice(3), 3),
    ];
    const pooled = poolDifferences(parts);
    expect(pooled.relativeL2).toBeCloseTo(whole.relativeL2, 12);
    expect(pooled).toMatchObject({
      maxAbsolute: 1,
      sameGreedyToken: 2,
      positions: 3,
      squaredTruth: whole.squaredTruth,
    });
  });
});
