import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { CALIBRATION_METHODS, calibrateInt8, quantizePerTensorInt8 } from '../src/index.js';
import { FLT_MAX } from './float32-arbitrary.js';

/** mulberry32 and Box-Muller: the same bell curve on every run. */
function bell(count: number, seed: number): Float32Array {
  let state = seed;
  const uniform = () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32 + 2 ** -33;
  };
  return Float32Array.from(
    { length: count },
    () => Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform()),
  );
}

const gaussian = bell(4096, 1);
const peaked = bell(4096, 2).map((x, i) => (i % 2048 === 0 ? 3 + Math.abs(x) : x * 0.2)); // a sharp peak with a long thin tail

describe('calibrateInt8', () => {
  it('takes the maximum by default, where nothing is clipped', () => {
    const { range, scale, clipped, meanSquaredError } = calibrateInt8(gaussian);
    expect(range).toBe(gaussian.reduce((max, x) => Math.max(max, Math.abs(x)), 0));
    expect(scale).toBe(Math.fround(range / 127));
    expect(clipped).toBe(0);
    // Uniform over one step: variance step² / 12.
    expect(meanSquaredError / (scale ** 2 / 12)).toBeGreaterThan(0.9);
    expect(meanSquaredError / (scale ** 2 / 12)).toBeLessThan(1.1);
  });

  it('is never worse than the maximum in mean squared error, by the method that minimises it', () => {
    fc.assert(
      fc.property(
        fc.array(fc.float({ min: -1000, max: 1000, noNaN: true }), { minLength: 1, maxLength: 60 }),
        (values) => {
          const input = Float32Array.from(values);
          const [max, mse] = [calibrateInt8(input), calibrateInt8(input, { method: 'mse' })];
          expect(mse.meanSquaredError).toBeLessThanOrEqual(max.meanSquaredError);
          expect(mse.range).toBeLessThanOrEqual(max.range);
        },
      ),
      { numRuns: 50 },
    );
  });

  it('keeps the given share by percentile', () => {
    for (const percentile of [50, 90, 99, 99.9, 100]) {
      const { clipped } = calibrateInt8(gaussian, { method: 'percentile', percentile });
      expect(clipped).toBeLessThanOrEqual(1 - percentile / 100);
      expect(clipped).toBeGreaterThan(1 - percentile / 100 - 1 / gaussian.length - 1e-12);
    }
  });

  it('clips a bell curve little and a long thin tail more, magnitude-aware or by mean squared error', () => {
    const share = (input: Float32Array, method: 'mse' | 'magnitude-aware') =>
      calibrateInt8(input, { method }).range / calibrateInt8(input).range;
    expect(share(gaussian, 'magnitude-aware')).toBeGreaterThan(0.95);
    expect(share(gaussian, 'mse')).toBeGreaterThan(0.8);
    // Weighing errors by magnitude defends the tail: less is clipped than where all errors count alike.
    const alike = calibrateInt8(peaked, { method: 'magnitude-aware', alpha: 0 }).range;
    const aware = calibrateInt8(peaked, { method: 'magnitude-aware', alpha: 5 }).range;
    expect(alike).toBeLessThan(0.5 * calibrateInt8(peaked).range);
    expect(aware).toBeGreaterThan(alike);
  });

  it.each(CALIBRATION_METHODS)('takes zeros, one element, subnormals and FLT_MAX: %s', (method) => {
    for (const input of [[0, 0, 0], [3], [2 ** -149, 0], [FLT_MAX, -1]]) {
      const { range, scale } = calibrateInt8(Float32Array.from(input), { method });
      expect(Number.isFinite(range)).toBe(true);
      expect(scale).toBeGreaterThanOrEqual(2 ** -126);
      expect(() => quantizePerTensorInt8(Float32Array.from(input), range)).not.toThrow();
    }
  });

  it.each([
    [{ method: 'entropy' }, 'ERR_ARG_RANGE'],
    [{ percentile: 0 }, 'ERR_ARG_RANGE'],
    [{ percentile: 101 }, 'ERR_ARG_RANGE'],
    [{ alpha: -1 }, 'ERR_ARG_RANGE'],
    [{ alpha: '5' }, 'ERR_ARG_TYPE'],
    [{ percentle: 5 }, 'ERR_ARG_RANGE'],
    [null, 'ERR_ARG_TYPE'],
  ])('rejects options %j', (options, code) => {
    expect(() => calibrateInt8(gaussian, options as never)).toThrow(expect.objectContaining({ code }));
  });

  it('rejects nothing to calibrate on, and what is not finite', () => {
    expect(() => calibrateInt8(new Float32Array(0))).toThrow(expect.objectContaining({ code: 'ERR_SHAPE' }));
    expect(() => calibrateInt8(Float32Array.of(1, Infinity))).toThrow(
      expect.objectContaining({ code: 'ERR_NONFINITE' }),
    );
  });
});
