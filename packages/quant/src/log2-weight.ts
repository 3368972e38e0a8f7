const INVERSE_LN2 = Math.LOG2E; // 1 / ln 2, the nearest float64

/**
 * log2(w) rounded to float32, from plain float64 operations only, so that it has the same bits on every machine (a C library's log2 has not).
 *
 * `w = 2^e · m` with m in [√½, √2), `t = (m - 1) / (m + 1)`, `log2 w = e + 2t · (1 + t²/3 + … + t¹⁸/19) / ln 2`.
 * @param w float32, > 0, finite.
 */
export function log2Weight(w: number): number {
  let exponent = 0;
  let m = w;
  if (m < 2 ** -100) {
    // subnormals included: both factors are powers of two, so nothing rounds
    m *= 2 ** 64;
    exponent -= 64;
  }
  bits.setFloat64(0, m);
  const high = bits.getUint32(0);
  exponent += (high >>> 20) - 1023;
  bits.setUint32(0, (high & 0x000fffff) | 0x3ff00000);
  m = bits.getFloat64(0); // in [1, 2)
  if (m >= Math.SQRT2) {
    m /= 2;
    exponent += 1;
  }
  const t = (m - 1) / (m + 1);
  const z = t * t;
  let series = 1 / 19;
  for (let odd = 17; odd >= 1; odd -= 2) series = series * z + 1 / odd;
  return Math.fround(exponent + 2 * t * series * INVERSE_LN2);
}

const bits = new DataView(new ArrayBuffer(8));
