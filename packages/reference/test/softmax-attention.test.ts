import { type AttentionPlan, judgeAttention } from '@int-flash/ops';
import { describe, expect, it } from 'vitest';
import {
  flashDAttention,
  int8Attention,
  makeInputs,
  relativeL2,
  seededUniform,
  softmaxAttention,
} from '../src/index.js';

const small = { heads: 4, kvHeads: 2, queries: 5, keys: 7, headDim: 8 };

/** [rows, dim] → the tensor of one head. */
function head(rows: readonly (readonly number[])[]) {
  return { type: 'float32' as const, dims: [1, 1, rows.length, rows[0]!.length], data: Float32Array.from(rows.flat()) };
}

const unit = (at: number) => Array.from({ length: 8 }, (_, d) => (d === at ? 1 : 0));

describe('softmaxAttention', () => {
  it('gives the numbers worked out by hand', () => {
    // q·k = [1, 0] with scale ln 3: weights 3/4 and 1/4.
    const plan = judgeAttention(
      { query: head([unit(0)]), key: head([unit(0), unit(1)]), value: head([unit(2), unit(3)]) },
      { scale: Math.log(3) },
    );
    const { out, lse } = softmaxAttention(plan);
    expect(out[2]).toBeCloseTo(0.75, 7);
    expect(out[3]).toBeCloseTo(0.25, 7);
    expect(lse[0]).toBeCloseTo(Math.log(4), 6);
  });

  it('says so where the host has no array for the answer, as the other oracles do', () => {
    const plan = { ...judgeAttention(makeInputs('normal', small)), outDims: [2 ** 25, 2 ** 26] };
    for (const oracle of [softmaxAttention, flashDAttention, int8Attention])
      expect(() => oracle(plan)).toThrow(expect.objectContaining({ code: 'ERR_OOM', where: 'host' }));
  });

  it('returns the value itself for a single key, whatever its score', () => {
    const inputs = makeInputs('normal', { heads: 1, queries: 3, keys: 1, headDim: 8 });
    const { out } = softmaxAttention(judgeAttention(inputs, { scale: 50 }));
    for (let i = 0; i < 3; i++) expect([...out.subarray(i * 8, i * 8 + 8)]).toEqual([...inputs.value.data]);
  });

  it('gives rows without a key zeros and a log-sum-exp of -Infinity', () => {
    const plan = judgeAttention(makeInputs('normal', small), {
      isCausal: true,
      causalAlignment: 'bottom-right',
      windowSize: [-1, 0],
    });
    const shifted = judgeAttention(makeInputs('normal', { ...small, queries: 9 }), {
      isCausal: true,
      causalAlignment: 'bottom-right',
    });
    expect(softmaxAttention(plan).lse.every(Number.isFinite)).toBe(true);
    const { out, lse } = softmaxAttention(shifted); // 9 queries, 7 keys: the first two see none
    expect([...lse.subarray(0, 3)].map(Number.isFinite)).toEqual([false, false, true]);
    expect(lse[0]).toBe(-Infinity);
    expect(out.subarray(0, 16).every((x) => x === 0)).toBe(true);
  });

  const inputs = makeInputs('normal', small, 5);
  const { queries, keys } = small;
  const boolMask = (allowed: (i: number, j: number) => boolean) => ({
    type: 'bool' as const,
    dims: [queries, keys],
    data: Uint8Array.from({ length: queries * keys }, (_, at) => (allowed(Math.floor(at / keys), at % keys) ? 1 : 0)),
  });
  it.each([
    ['causal, top-left', { isCausal: true }, (i: number, j: number) => j <= i],
    [
      'causal, bottom-right',
      { isCausal: true, causalAlignment: 'bottom-right' },
      (i: number, j: number) => j <= i + keys - queries,
    ],
    ['window [2, 1]', { windowSize: [2, 1] }, (i: number, j: number) => j >= i - 2 && j <= i + 1],
    ['window [1, -1]', { windowSize: [1, -1] }, (i: number, j: number) => j >= i - 1],
  ] as const)('%s is the mask it stands for', (_name, options, allowed) => {
    const banded = softmaxAttention(judgeAttention(inputs, options));
    const masked = softmaxAttention(judgeAttention(inputs, { attnMask: boolMask(allowed) }));
    expect([...banded.out]).toEqual([...masked.out]);
    expect([...banded.lse]).toEqual([...masked.lse]);
  });

  it('adds a float mask and excludes where it is -Infinity', () => {
    const excluded = {
      type: 'float32' as const,
      dims: [1, keys],
      data: Float32Array.from({ length: keys }, (_, j) => (j < 3 ? 0 : -Infinity)),
    };
    const cut = softmaxAttention(judgeAttention(inputs, { attnMask: excluded }));
    expect([...cut.out]).toEqual([
      ...softmaxAttention(judgeAttention(inputs, { attnMask: boolMask((_, j) => j < 3) })).out,
    ]);
    const shift = { type: 'float32' as const, dims: [1, 1], data: Float32Array.of(2) };
    const shifted = softmaxAttention(judgeAttention(inputs, { attnMask: shift }));
    const plain = softmaxAttention(judgeAttention(inputs));
    expect(relativeL2(shifted.out, plain.out)).toBeLessThan(1e-14);
    expect(shifted.lse[0]! - plain.lse[0]!).toBeCloseTo(2, 12);
  });

  it('grouped heads equal repeated ones, NHD equals HND, varlen equals the sequences alone', () => {
    const repeat = (t: typeof inputs.key) => {
      const perHead = t.data.length / small.kvHeads;
      const data = Float32Array.from(
        { length: 2 * t.data.length },
        (_, i) => t.data[Math.floor(i / perHead / 2) * perHead + (i % perHead)]!,
      );
      return { ...t, dims: [1, 4, keys, 8], data };
    };
    const grouped = softmaxAttention(judgeAttention(inputs)).out;
    const full = softmaxAttention(
      judgeAttention({ query: inputs.query, key: repeat(inputs.key), value: repeat(inputs.value) }),
    ).out;
    expect([...grouped]).toEqual([...full]);

    const swapped = (t: typeof inputs.key) => {
      const [, heads, tokens, dim] = t.dims as [number, number, number, number];
      return { ...t, dims: [1, tokens, heads, dim], strides: [t.data.length, dim, tokens * dim, 1] }; // the same memory, read the other way
    };
    const nhd = softmaxAttention(
      judgeAttention(
        { query: swapped(inputs.query), key: swapped(inputs.key), value: swapped(inputs.value) },
        { tensorLayout: 'NHD' },
      ),
    ).out;
    for (let h = 0; h < 4; h++)
      for (let i = 0; i < queries; i++)
        for (let d = 0; d < 8; d++) expect(nhd[(i * 4 + h) * 8 + d]).toBe(grouped[(h * queries + i) * 8 + d]);

    const packed = makeInputs('normal', { heads: 2, queries: 9, keys: 11, headDim: 8 }, 7);
    const tokensFirst = (t: typeof packed.key) => {
      const [, heads, tokens, dim] = t.dims as [number, number, number, number];
      return { type: t.type, dims: [tokens, heads, dim], strides: [dim, tokens * dim, 1], data: t.data };
    };
    const all = { query: tokensFirst(packed.query), key: tokensFirst(packed.key), value: tokensFirst(packed.value) };
    const varlen = softmaxAttention(
      judgeAttention(all, { tensorLayout: 'NHD', cuSeqlensQ: [0, 4, 4, 9], cuSeqlensK: [0, 5, 8, 11], isCausal: true }),
    ).out;
    const part = (t: (typeof all)['key'], from: number, to: number) => ({
      ...t,
      dims: [to - from, 2, 8],
      data: t.data.subarray(from * 8),
    });
    const last = softmaxAttention(
      judgeAttention(
        { query: part(all.query, 4, 9), key: part(all.key, 8, 11), value: part(all.value, 8, 11) },
        { tensorLayout: 'NHD', isCausal: true },
      ),
    ).out;
    expect([...varlen.subarray(4 * 16)]).toEqual([...last]);
  });
});

describe('flashDAttention', () => {
  // Both are float64; a row of n keys gathers at most about n·eps relative to its largest term, 2e-14 here. 1e-12 is the promise.
  const uniform = seededUniform(3);
  const cases = Array.from({ length: 40 }, (_, seed) => ({
    seed,
    queries: 1 + Math.floor(uniform() * 6),
    keys: 1 + Math.floor(uniform() * 200),
    isCausal: uniform() < 0.5,
    softcap: uniform() < 0.3 ? 5 : 0,
    family: (['normal', 'sharp', 'sink', 'kbias'] as const)[Math.floor(uniform() * 4)]!,
  }));
  it.each(cases)('equals softmax attention: $family, $queries × $keys, causal $isCausal, softcap $softcap', (c) => {
    const plan: AttentionPlan = judgeAttention(
      makeInputs(c.family, { heads: 2, queries: c.queries, keys: c.keys, headDim: 16 }, c.seed),
      { isCausal: c.isCausal, softcap: c.softcap },
    );
    const [expected, actual] = [softmaxAttention(plan), flashDAttention(plan)];
    expect(relativeL2(actual.out, expected.out)).toBeLessThan(1e-12);
    expected.lse.forEach((lse, i) => {
      if (lse === -Infinity) expect(actual.lse[i]).toBe(-Infinity);
      else expect(Math.abs(actual.lse[i]! - lse)).toBeLessThan(1e-12 * Math.max(1, Math.abs(lse)));
    });
  });
});
