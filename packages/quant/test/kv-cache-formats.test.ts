import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  dequantizeAsymmetricGroups,
  dequantizeKv,
  KV_CACHE_FORMATS,
  quantizeAsymmetricGroups,
  quantizeKv,
} from '../src/index.js';
import { FLT_MAX, matrix } from './float32-arbitrary.js';

function span(input: Float32Array, pick: (i: number) => boolean): { max: number; range: number } {
  const chosen = input.filter((_, i) => pick(i));
  const [low, high] = [Math.min(...chosen), Math.max(...chosen)];
  return { max: Math.max(Math.abs(low), Math.abs(high)), range: high - low };
}

describe.each(KV_CACHE_FORMATS)('%s', (format) => {
  it('keeps keys and values within half the documented step', () => {
    fc.assert(
      fc.property(matrix(40, 5), ({ input, dim }) => {
        const values = input.map((x) => x / 2);
        const back = dequantizeKv(quantizeKv(format, input, values, dim));
        const token = (i: number) => Math.floor(i / dim);
        for (const [given, kept, isKey] of [
          [input, back.keys, true],
          [values, back.values, false],
        ] as const) {
          for (let i = 0; i < given.length; i++) {
            const sameToken = (k: number) => token(k) === token(i);
            const sameChannel = (k: number) => k % dim === i % dim;
            const sameRun = (k: number) => sameChannel(k) && Math.floor(token(k) / 32) === Math.floor(token(i) / 32);
            const kivi = span(given, isKey ? sameRun : sameToken); // dim < 32: one group a token
            const step = {
              'int8-per-token': span(given, sameToken).max / 127,
              'int4-per-token': span(given, sameToken).max / 7,
              'int8-per-channel': span(given, sameChannel).max / 127,
              'kivi-int8': kivi.range / 255,
              'kivi-int4': kivi.range / 15,
            }[format];
            const rounding = (kivi.max + Math.abs(given[i]!) + 255 * step) * 2 ** -22;
            expect(Math.abs(given[i]! - kept[i]!)).toBeLessThanOrEqual(Math.max(step, 2 ** -126) / 2 + rounding);
          }
        }
      }),
      { numRuns: 60 },
    );
  });

  it('takes no tokens, and rejects what is not finite or not alike', () => {
    expect(dequantizeKv(quantizeKv(format, new Float32Array(0), new Float32Array(0), 8)).keys.length).toBe(0);
    expect(() => quantizeKv(format, new Float32Array(8), Float32Array.of(0, 0, 0, Number.NaN, 0, 0, 0, 0), 4)).toThrow(
      expect.objectContaining({ code: 'ERR_NONFINITE', message: expect.stringContaining('element 3') }),
    );
    expect(() => quantizeKv(format, new Float32Array(8), new Float32Array(4), 4)).toThrow(
      expect.objectContaining({ code: 'ERR_SHAPE' }),
    );
  });
});

describe('quantizeAsymmetricGroups', () => {
  it('beats a symmetric grid where a channel has an offset', () => {
    const input = Float32Array.from({ length: 64 }, (_, i) => 100 + Math.sin(i));
    const groups = quantizeAsymmetricGroups(input, 1, { bits: 4, tokens: 32, channels: 1 });
    const worst = Math.max(...dequantizeAsymmetricGroups(groups, 1).map((x, i) => Math.abs(x - input[i]!)));
    expect(worst).toBeLessThanOrEqual(2 / 15 / 2 + 1e-4);
    expect(worst).toBeGreaterThan(0.01); // 4 bits cannot do better on 32 different numbers
    expect(groups.codes.length).toBe(32);
    expect(groups.scales.length).toBe(2);
  });

  it('takes FLT_MAX on both sides', () => {
    const input = Float32Array.of(FLT_MAX, -FLT_MAX, 0);
    const groups = quantizeAsymmetricGroups(input, 3, { bits: 8, tokens: 1, channels: 3 });
    expect([...groups.codes]).toEqual([255, 0, 128]);
    expect(dequantizeAsymmetricGroups(groups, 3).every((x) => Math.abs(x) <= FLT_MAX * 1.01)).toBe(true);
  });

  it('rejects other shapes', () => {
    for (const shape of [
      { bits: 2, tokens: 1, channels: 1 },
      { bits: 4, tokens: 0, channels: 1 },
      { bits: 8, tokens: 1, channels: 1.5 },
    ]) {
      expect(() =>
        quantizeAsymmetricGroups(new Float32Array(4), 2, shape as { bits: 4; tokens: number; channels: number }),
      ).toThrow(expect.objectContaining({ code: 'ERR_ARG_RANGE' }));
    }
  });
});
