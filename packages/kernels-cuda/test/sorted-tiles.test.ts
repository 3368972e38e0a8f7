import { judgeAttention } from '@int-flash/ops';
import { describe, expect, it } from 'vitest';
import { mayLoseRows } from '../src/sorted-tiles.js';

function plan(keys: number, headDim: number, options: object = {}) {
  const tensor = { type: 'float32' as const, dims: [1, 1, keys, headDim], data: new Float32Array(keys * headDim) };
  return judgeAttention({ query: tensor, key: tensor, value: tensor }, options);
}

describe('calls that the kernels on sorted tiles must not get', () => {
  // A quarter of a tile's slots: of 128, or with up to 64 channels of the 64, 128 or 192 that the last one ends after.
  it.each([
    [128, [1, 20, 32, 129, 160], [33, 127, 128, 161, 256]],
    [256, [32], [33]],
    [72, [32], [33]],
    [64, [1, 16, 193, 208], [17, 32, 64, 65, 128, 129, 177, 192, 209]],
  ])('head dimension %i', (headDim, few, enough) => {
    for (const keys of few) expect(mayLoseRows(plan(keys, headDim)), `${keys} keys`).toBe(true);
    for (const keys of enough) expect(mayLoseRows(plan(keys, headDim)), `${keys} keys`).toBe(false);
  });

  it('are masked ones without smooth-K, whose small keys may be zero', () => {
    expect(mayLoseRows(plan(128, 128, { isCausal: true, smoothK: false }))).toBe(true);
    expect(mayLoseRows(plan(128, 128, { windowSize: [3, 4], smoothK: false }))).toBe(true);
    expect(mayLoseRows(plan(100, 128, { smoothK: false }))).toBe(true);
    expect(mayLoseRows(plan(128, 128, { smoothK: false }))).toBe(false);
    expect(mayLoseRows(plan(128, 128, { isCausal: true }))).toBe(false);
  });

  it('are full-int8', () => {
    for (const precision of ['half-int8', 'paper-int8', 'int4-qk', 'fp32'] as const)
      expect(mayLoseRows(plan(5, 128, { precision }))).toBe(false);
  });
});
