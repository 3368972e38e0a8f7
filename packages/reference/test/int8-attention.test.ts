import { type AttentionPlan, judgeAttention, judgeQuantizedAttention, type Precision } from '@int-flash/ops';
import { quantizePerTokenInt8, quantizeTokenLevelV } from '@int-flash/quant';
import { describe, expect, it } from 'vitest';
import {
  cacheAttention,
  INPUT_FAMILIES,
  type InputFamily,
  int8Attention,
  makeInputs,
  predictRelativeRms,
  relativeL2,
  softmaxAttention,
} from '../src/index.js';

const QUANTIZED: readonly Precision[] = ['full-int8', 'paper-int8', 'half-int8', 'int4-qk'];

describe('int8Attention: accuracy', () => {
  // Every rounding taken as independent noise predicts the error to first order; over these inputs the ratio came to 0.90-1.07.
  // The floor counts as much as the ceiling: a path that forgot to quantize passes any ceiling.
  const shape = { heads: 2, queries: 12, keys: 700, headDim: 64 };
  it.each(INPUT_FAMILIES.flatMap((family) => QUANTIZED.map((precision) => ({ family, precision }))))(
    '$precision on $family inputs has the error that its steps predict',
    ({ family, precision }) => {
      const plan = judgeAttention(makeInputs(family, shape, 11), { precision });
      const ratio = relativeL2(int8Attention(plan).out, softmaxAttention(plan).out) / predictRelativeRms(plan);
      expect(ratio).toBeGreaterThan(0.6);
      expect(ratio).toBeLessThan(1.4);
    },
  );

  // The published bounds (docs/arithmetic.md, Accuracy), at their shape: 4,096 keys, head dimension 128. They speak of means over all
  // queries; here 48 of them over 4 heads stand for all, and where few channels decide (vout) such a sample scatters by 6%.
  const SAMPLING = 1.1;
  const targets = {
    'full-int8': { normal: 0.0155, sharp: 0.026, kbias: 0.0155, vout: 0.0155, sink: 0.021, sinkall: 0.021 },
    'half-int8': { normal: 0.0098, sharp: 0.021, kbias: 0.0098, vout: 0.0098, sink: 0.0135, sinkall: 0.0135 },
  } as const;
  it.each(
    Object.entries(targets).flatMap(([precision, families]) =>
      Object.entries(families).map(([family, bound]) => ({
        precision: precision as Precision,
        family: family as InputFamily,
        bound,
      })),
    ),
  )('$precision stays below $bound on $family inputs', ({ precision, family, bound }) => {
    const plan = judgeAttention(makeInputs(family, { heads: 4, queries: 12, keys: 4096, headDim: 128 }, 2), {
      precision,
    });
    const error = relativeL2(int8Attention(plan).out, softmaxAttention(plan).out);
    expect(error).toBeLessThan(bound * SAMPLING);
    expect(error).toBeGreaterThan(bound / 3);
  });

  it.each(['sink', 'sinkall'] as const)(
    'token-level V keeps %s inputs 10 times closer than the paper does',
    (family) => {
      const error = (precision: Precision) => {
        const plan = judgeAttention(makeInputs(family, { heads: 1, queries: 16, keys: 2048, headDim: 128 }, 3), {
          precision,
        });
        return relativeL2(int8Attention(plan).out, softmaxAttention(plan).out);
      };
      expect(error('full-int8')).toBeLessThan(0.021);
      expect(error('paper-int8')).toBeGreaterThan(10 * error('full-int8'));
    },
  );

  it('computes fp32 to float32 accuracy', () => {
    const plan = judgeAttention(makeInputs('normal', shape, 4), { precision: 'fp32' });
    const error = relativeL2(int8Attention(plan).out, softmaxAttention(plan).out);
    expect(error).toBeLessThan(5e-6); // exp2's polynomial, 2.8e-6, and float32 sums
  });

  it('puts q · mean back into the log-sum-exp when keys were smoothed', () => {
    const inputs = makeInputs('kbias', shape, 5);
    const plain = softmaxAttention(judgeAttention(inputs));
    const { lse } = int8Attention(judgeAttention(inputs, { returnLse: true }));
    const worst = lse.reduce((max, value, i) => Math.max(max, Math.abs(value - plain.lse[i]!)), 0);
    expect(worst).toBeLessThan(0.05); // score noise of 0.01 a key, averaged; q · mean itself is of the order of 8
  });
});

describe('int8Attention: arithmetic', () => {
  const shape = { heads: 2, kvHeads: 1, queries: 5, keys: 300, headDim: 16 };

  it('gives the pre-quantized entry and the float entry the same bits', () => {
    const inputs = makeInputs('normal', { ...shape, heads: 1 }, 6);
    const q = quantizePerTokenInt8(inputs.query.data, 16);
    const k = quantizePerTokenInt8(inputs.key.data, 16);
    const v = quantizeTokenLevelV(inputs.value.data, 16);
    const coded = judgeQuantizedAttention(
      {
        q: { type: 'int8', dims: inputs.query.dims, data: q.values },
        k: { type: 'int8', dims: inputs.key.dims, data: k.values },
        v: { type: 'int8', dims: inputs.value.dims, data: v.values },
        qScale: { type: 'float32', dims: [1, 1, 5], data: q.scales },
        kScale: { type: 'float32', dims: [1, 1, 300], data: k.scales },
        vScale: { type: 'float32', dims: [1, 1, 300], data: v.tokenWeights },
        vChannelScale: { type: 'float32', dims: [1, 1, 16], data: v.channelScales },
      },
      { returnLse: true },
    );
    const float = judgeAttention(inputs, { smoothK: false, returnLse: true });
    expect([...int8Attention(coded).out]).toEqual([...int8Attention(float).out]);
    expect([...int8Attention(coded).lse]).toEqual([...int8Attention(float).lse]);
  });

  it('shows its integers, and they are the sums of products of the codes', () => {
    const inputs = makeInputs('normal', shape, 7);
    const plan = judgeAttention(inputs, { smoothK: false });
    const q = quantizePerTokenInt8(inputs.query.data, 16).values;
    const k = quantizePerTokenInt8(inputs.key.data, 16).values;
    let seen = 0;
    int8Attention(plan, ({ head, query, tileStart }, scores, products) => {
      for (let j = 0; j < Math.min(128, 300 - tileStart); j++) {
        let dot = 0;
        for (let d = 0; d < 16; d++) dot += q[(head * 5 + query) * 16 + d]! * k[(tileStart + j) * 16 + d]!;
        expect(scores[j]).toBe(dot);
      }
      expect(products.every((t) => Math.abs(t) <= 255 * 127 * 128)).toBe(true);
      expect(products.some((t) => t !== 0)).toBe(true);
      seen++;
    });
    expect(seen).toBe(2 * 5 * 3); // heads × queries × tiles of 300 keys
  });

  it('sees no key outside the band, not even through its scale', () => {
    const inputs = makeInputs('normal', { ...shape, heads: 1 }, 8);
    const causal = (plan: AttentionPlan) => int8Attention(plan).out;
    const before = causal(judgeAttention(inputs, { isCausal: true, smoothK: false, precision: 'half-int8' }));
    inputs.key.data.fill(9, 5 * 16);
    inputs.value.data.fill(-9, 5 * 16);
    expect([...causal(judgeAttention(inputs, { isCausal: true, smoothK: false, precision: 'half-int8' }))]).toEqual([
      ...before,
    ]);
  });

  it.each(['zero values', 'zero keys', 'zero queries', 'tiny', 'huge values'])('stays finite on %s', (kind) => {
    const inputs = makeInputs('normal', shape, 9);
    if (kind === 'zero values') inputs.value.data.fill(0);
    if (kind === 'zero keys') inputs.key.data.fill(0);
    if (kind === 'zero queries') inputs.query.data.fill(0);
    if (kind === 'tiny')
      for (const { data } of [inputs.query, inputs.key, inputs.value]) data.set(data.map((x) => x * 1e-41));
    const { data } = inputs.value;
    if (kind === 'huge values') for (let i = 0; i < data.length; i++) data[i] = Math.sign(data[i]!) * 2 ** 100;
    for (const precision of ['full-int8', 'paper-int8', 'int4-qk'] as const) {
      const { out } = int8Attention(judgeAttention(inputs, { precision }));
      expect(out.every(Number.isFinite)).toBe(true);
      if (kind === 'zero values') expect(out.every((x) => x === 0)).toBe(true);
    }
  });

  const LIMIT = 2 ** 100;
  const FLT_MAX = (2 - 2 ** -23) * 2 ** 127;
  const spread = (data: Float32Array, largest: number) => {
    const top = data.reduce((max, x) => Math.max(max, Math.abs(x)), 0);
    for (let i = 0; i < data.length; i++) data[i] = (data[i]! / top) * largest;
  };

  describe.each([...QUANTIZED, 'fp32'] as const)('at the edge of float32, %s', (precision) => {
    /** Inputs whose largest magnitudes are `q`, `k` and `v`. */
    const run = ({ q = 1, k = 1, v = 1, scale = 1 }) => {
      const inputs = makeInputs('normal', shape, 10);
      spread(inputs.query.data, q);
      spread(inputs.key.data, k);
      inputs.value.data.fill(v);
      return int8Attention(judgeAttention(inputs, { precision, returnLse: true, scale }));
    };

    it.each([
      ['values beyond 2^100', { v: FLT_MAX }],
      ['keys beyond 2^100 under zero queries', { q: 0, k: FLT_MAX }],
      ['keys beyond 2^100 under tiny queries', { q: 1e-35, k: 1e35 }],
      ['queries beyond 2^100 over tiny keys', { q: 1e35, k: 1e-35 }],
      ['a product that only the scale makes small', { q: 2e19, k: 2e19, scale: 2e-38 }],
      ['a large scale', { q: 1e9, k: 1e9, scale: 2 ** 99 }],
    ])('refuses %s', (_, sizes) => {
      expect(() => run(sizes)).toThrow(expect.objectContaining({ code: 'ERR_OVERFLOW' }));
    });

    it.each([
      { q: 2 ** 42, k: 2 ** 42, scale: 1 },
      { q: 2 ** 88, k: 2 ** -100, scale: 1 },
      { q: 2 ** -100, k: 2 ** 88, scale: 1 },
      { q: 1, k: 1, scale: 2 ** 85 },
    ])('takes q $q, k $k, scale $scale', (sizes) => {
      const v = precision === 'half-int8' ? 65504 : LIMIT;
      const { out, lse } = run({ ...sizes, v });
      expect(lse.every(Number.isFinite)).toBe(true);
      // All values are alike, so every weighted mean is that value, up to exp2's polynomial, float32 sums and half a step of P.
      expect(out.every((x) => Math.abs(x / v - 1) < 0.01)).toBe(true);
    });
  });

  it('names values beyond float16 and what is not finite', () => {
    const wide = makeInputs('normal', shape, 10);
    wide.value.data[3] = 7e4;
    expect(() => int8Attention(judgeAttention(wide, { precision: 'half-int8' }))).toThrow(
      expect.objectContaining({ code: 'ERR_OVERFLOW', message: expect.stringContaining('value') }),
    );
    wide.value.data[3] = Number.NaN;
    expect(() => int8Attention(judgeAttention(wide))).toThrow(expect.objectContaining({ code: 'ERR_NONFINITE' }));
  });
});

describe('cacheAttention', () => {
  const [heads, kvHeads, headDim, length, capacity] = [4, 2, 16, 2100, 2200];
  const inputs = makeInputs('normal', { heads, kvHeads, queries: 1, keys: length, headDim }, 12);

  /** The same keys and values as a cache holds them, with poison behind `length`. */
  function cacheOf() {
    const keys = new Int8Array(kvHeads * capacity * headDim).fill(-128);
    const values = new Int8Array(kvHeads * capacity * headDim).fill(-128);
    const keyScales = new Float32Array(kvHeads * capacity).fill(Number.NaN);
    const valueScales = new Float32Array(kvHeads * capacity).fill(Number.NaN);
    for (let head = 0; head < kvHeads; head++) {
      const rows = (data: Float32Array) => data.subarray(head * length * headDim, (head + 1) * length * headDim);
      const k = quantizePerTokenInt8(rows(inputs.key.data), headDim);
      const v = quantizePerTokenInt8(rows(inputs.value.data), headDim);
      keys.set(k.values, head * capacity * headDim);
      values.set(v.values, head * capacity * headDim);
      keyScales.set(k.scales, head * capacity);
      valueScales.set(v.scales, head * capacity);
    }
    return { type: 'int8' as const, kvHeads, capacity, headDim, length, keys, values, keyScales, valueScales };
  }

  it('is as accurate as INT8 allows, and blind to what lies behind its length', () => {
    const args = {
      query: inputs.query.data,
      tokens: 1,
      heads,
      cache: cacheOf(),
      scale: 0.25,
      windowLeft: Infinity,
      softcap: 0,
    };
    const expected = softmaxAttention(judgeAttention(inputs, { scale: 0.25 })).out;
    const error = relativeL2(cacheAttention(args), expected);
    expect(error).toBeGreaterThan(0.002);
    expect(error).toBeLessThan(0.02);
  });

  it('refuses scores beyond float32', () => {
    const query = new Float32Array(heads * headDim).fill(2 ** 60);
    const cache = cacheOf();
    cache.keyScales.fill(2 ** 40);
    const args = { query, tokens: 1, heads, cache, scale: 0.25, windowLeft: Infinity, softcap: 0 };
    expect(() => cacheAttention(args)).toThrow(expect.objectContaining({ code: 'ERR_OVERFLOW' }));
  });

  it('walks the keys in runs for few queries: the same answer to float32 rounding, not the same path', () => {
    const query = makeInputs('normal', { heads, queries: 9, keys: 1, headDim }, 13).query.data; // [9, heads, headDim] by any order
    const args = { heads, cache: cacheOf(), scale: 0.25, windowLeft: Infinity, softcap: 0 };
    const nine = cacheAttention({ ...args, query, tokens: 9 });
    const eight = cacheAttention({ ...args, query: query.subarray(heads * headDim), tokens: 8 });
    const difference = relativeL2(eight, nine.subarray(heads * headDim));
    expect(difference).toBeLessThan(6e-6); // merging multiplies by exp2's polynomial, 2.8e-6 off at most, once a run
  });
});
