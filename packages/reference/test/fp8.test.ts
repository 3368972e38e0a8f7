import { describe, expect, it } from 'vitest';
import { decodeFp8, encodeFp8, FP8_FORMATS, maxFp8, roundToFp8, seededNormal, seededUniform } from '../src/index.js';

const CODES = Array.from({ length: 256 }, (_, code) => code);

describe('FP8', () => {
  // From the tables of the OCP 8-bit floating point specification.
  it.each([
    ['e4m3', 0x00, 0],
    ['e4m3', 0x01, 2 ** -9],
    ['e4m3', 0x07, 0.875 * 2 ** -6],
    ['e4m3', 0x08, 2 ** -6],
    ['e4m3', 0x38, 1],
    ['e4m3', 0x39, 1.125],
    ['e4m3', 0x7e, 448],
    ['e4m3', 0xfe, -448],
    ['e4m3', 0x7f, Number.NaN],
    ['e4m3', 0xff, Number.NaN],
    ['e5m2', 0x01, 2 ** -16],
    ['e5m2', 0x03, 0.75 * 2 ** -14],
    ['e5m2', 0x04, 2 ** -14],
    ['e5m2', 0x3c, 1],
    ['e5m2', 0x3d, 1.25],
    ['e5m2', 0x7b, 57344],
    ['e5m2', 0x7c, Infinity],
    ['e5m2', 0xfc, -Infinity],
    ['e5m2', 0x7d, Number.NaN],
    ['e5m2', 0x7f, Number.NaN],
  ] as const)('%s code %i stands for %f', (format, code, value) => {
    expect(decodeFp8(code, format)).toBe(value);
  });

  it.each(FP8_FORMATS)('%s: each of the 256 codes survives the round trip', (format) => {
    for (const code of CODES) {
      const value = decodeFp8(code, format);
      if (!Number.isFinite(value)) continue; // infinities saturate, and there are several NaNs
      expect(encodeFp8(value, format), `code ${code}`).toBe(code);
      expect(roundToFp8(value, format)).toBe(value);
    }
    const finite = CODES.filter((code) => Number.isFinite(decodeFp8(code, format)));
    expect(finite).toHaveLength(format === 'e4m3' ? 254 : 248);
  });

  it.each(FP8_FORMATS)('%s: the nearest of all codes, ties to the even one', (format) => {
    const table = CODES.map((code) => ({ code, value: decodeFp8(code, format) })).filter(
      ({ code, value }) => code < 128 && Number.isFinite(value),
    );
    const nearest = (x: number) =>
      table.reduce((best, next) => {
        const [a, b] = [Math.abs(best.value - x), Math.abs(next.value - x)];
        return b < a || (b === a && next.code % 2 === 0) ? next : best;
      }).value;
    const uniform = seededUniform(1);
    const normal = seededNormal(uniform);
    const halfways = table.slice(1).map(({ value }, i) => (value + table[i]!.value) / 2);
    const scattered = Array.from({ length: 5000 }, () => Math.abs(normal()) * 2 ** (Math.floor(uniform() * 30) - 18));
    for (const x of [...halfways, ...scattered].filter((x) => x <= maxFp8(format))) {
      expect(roundToFp8(x, format), `${x}`).toBe(nearest(x));
      expect(roundToFp8(-x, format), `${-x}`).toBe(-nearest(x));
    }
  });

  it('saturates, keeps the sign of zero and NaN', () => {
    expect(roundToFp8(1e9, 'e4m3')).toBe(448);
    expect(roundToFp8(-Infinity, 'e5m2')).toBe(-57344);
    expect(encodeFp8(-0, 'e4m3')).toBe(0x80);
    expect(encodeFp8(-1e-12, 'e5m2')).toBe(0x80);
    expect(roundToFp8(Number.NaN, 'e4m3')).toBeNaN();
    expect(encodeFp8(Number.NaN, 'e5m2')).toBe(0x7f);
    expect(() => decodeFp8(256, 'e4m3')).toThrow(/8-bit code, got 256/);
    expect(() => roundToFp8(1, 'e3m4' as never)).toThrow(/one of e4m3, e5m2, got e3m4/);
  });
});
