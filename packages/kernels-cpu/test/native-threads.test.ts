import { judgeAttention } from '@int-flash/ops';
import { describe, expect, it } from 'vitest';
import { createCpuBackend, supportedIsas } from '../src/index.js';
import { randomCodes, randomFloats, randomScales, unequalBits } from './native-inputs.js';

const isas = supportedIsas();

function plan(tokens: number, heads = 4, options: object = {}) {
  const t = (seed: number) => ({
    type: 'float32',
    dims: [1, heads, tokens, 64],
    data: randomFloats(heads * tokens * 64, seed),
  });
  return judgeAttention({ query: t(1), key: t(2), value: t(3) }, { isCausal: true, returnLse: true, ...options });
}

describe.skipIf(isas.length === 0)('threads', () => {
  it.each(['full-int8', 'half-int8', 'fp32'])(
    '%s: the thread count changes no bit, nor does the neighbour',
    (precision) => {
      const p = plan(400, 4, { precision });
      const expected = createCpuBackend({ threads: 1 }).attentionSync(p);
      for (const threads of [2, 4, 8]) {
        for (let repeat = 0; repeat < 3; repeat++) {
          const { out, lse } = createCpuBackend({ threads }).attentionSync(p);
          expect(unequalBits(out, expected.out)).toBe(0);
          expect(unequalBits(lse!, expected.lse!)).toBe(0);
        }
      }
    },
  );

  it('a cache and a linear layer likewise', () => {
    const shape = { kvHeads: 4, capacity: 5000, headDim: 64, length: 5000 };
    const count = 4 * 5000 * 64;
    const cache = {
      ...shape,
      type: 'int8',
      keys: randomCodes(count, 1),
      values: randomCodes(count, 2),
      keyScales: randomScales(20000, 3),
      valueScales: randomScales(20000, 4),
    } as const;
    const args = {
      query: randomFloats(4 * 64, 5),
      tokens: 1,
      heads: 4,
      cache,
      scale: 0.125,
      windowLeft: Infinity,
      softcap: 0,
    };
    const weights = {
      type: 'int8',
      rows: 500,
      cols: 300,
      codes: randomCodes(150000, 6),
      scales: randomScales(500, 7),
    } as const;
    const input = randomFloats(20 * 300, 8);
    const run = (threads: number) => {
      const backend = createCpuBackend({ threads });
      const layer = backend.createLinear(weights);
      const result = [backend.cacheAttentionSync(args), layer.forwardSync(input, 20)] as const;
      layer.dispose();
      return result;
    };
    const [attended, projected] = run(1);
    for (const threads of [2, 4, 8]) {
      const [a, b] = run(threads);
      expect(unequalBits(a, attended)).toBe(0);
      expect(unequalBits(b, projected)).toBe(0);
    }
  });

  it.each(['int8', 'int4'] as const)('rows written into an %s cache, and turned ones, likewise', (type) => {
    const [kvHeads, tokens, headDim] = [3, 192, 64];
    const rows = randomFloats(2 * kvHeads * tokens * headDim, 9);
    rows.fill(0, 0, 4 * kvHeads * headDim); // the first value rows get their scales from later ones
    const bytes = (kvHeads * tokens * headDim) / (type === 'int4' ? 2 : 1);
    const run = (threads: number) => {
      const backend = createCpuBackend({ threads });
      const codes = () => (type === 'int4' ? new Uint8Array(bytes) : new Int8Array(bytes));
      const scales = () => new Float32Array(kvHeads * tokens);
      const stored = { keys: codes(), values: codes(), keyScales: scales(), valueScales: scales() };
      const largest = new Float32Array(kvHeads);
      const append = (given: Float32Array) => ({
        rows: given,
        tokens,
        keyOffset: 0,
        valueOffset: kvHeads * headDim,
        stride: 2 * kvHeads * headDim,
        cache: {
          type,
          kvHeads,
          headDim,
          capacity: tokens,
          length: 0,
          pages: Int32Array.of(2, 0, 1),
          ...stored,
        } as never,
        keyShift: new Float32Array(kvHeads * headDim),
        largestValueScale: largest,
      });
      const turned = new Float32Array(rows.length);
      expect(backend.appendCacheSync!(append(rows))).toBe(true);
      expect(backend.turnRowsSync!(rows, headDim, turned)).toBe(true);
      const answer = structuredClone({ ...stored, largest, turned });
      const bad = rows.slice();
      bad[bad.length - 1] = Number.NaN;
      expect(backend.appendCacheSync!(append(bad))).toBe(false);
      expect(backend.turnRowsSync!(bad, headDim, turned)).toBe(false);
      return answer;
    };
    const alone = run(1);
    for (const threads of [2, 4, 8]) expect(run(threads)).toEqual(alone);
  });

  it('asynchronous calls copy what they read, overlap, and give the synchronous bits', async () => {
    const p = plan(300);
    const expected = createCpuBackend().attentionSync(p);
    const backend = createCpuBackend({ threads: 2 });
    const calls = Array.from({ length: 6 }, () => backend.attention(p));
    for (const operand of [p.query, p.key, p.value]) operand.data.fill(Number.NaN); // after the call began: too late to matter
    for (const { out, lse } of await Promise.all(calls)) {
      expect(unequalBits(out, expected.out)).toBe(0);
      expect(unequalBits(lse!, expected.lse!)).toBe(0);
    }
    expect(backend.liveBytes()).toBe(0);
  });

  it('rejects with the signal’s reason, long before the call would have ended', async () => {
    const backend = createCpuBackend({ threads: 1, isa: isas.at(-1)! });
    const p = plan(3000, 8, { precision: 'fp32', isCausal: false }); // minutes of work on portable C++
    const controller = new AbortController();
    const reason = new Error('enough');
    const call = backend.attention(p, controller.signal);
    controller.abort(reason);
    await expect(call).rejects.toBe(reason);
    await expect(backend.attention(p, controller.signal)).rejects.toBe(reason);
    expect(backend.liveBytes()).toBe(0);
  });

  it('errors of asynchronous calls are typed', async () => {
    const p = plan(16);
    p.key.data[7] = Number.NaN;
    await expect(createCpuBackend().attention(p)).rejects.toMatchObject({ code: 'ERR_NONFINITE' });
  });
});

describe.skipIf(isas.length === 0)('options', () => {
  it('rejects what it does not know', () => {
    expect(() => createCpuBackend({ isa: 'mmx' })).toThrow(RangeError);
    for (const threads of [0, 257, 1.5, Number.NaN]) expect(() => createCpuBackend({ threads })).toThrow(RangeError);
    expect(() => createCpuBackend({ cores: 2 } as never)).toThrow('cores');
  });

  it('says what it runs on', () => {
    expect(createCpuBackend({ isa: isas[0]!, threads: 3 }).status()).toMatchObject({
      available: true,
      isa: isas[0],
      threads: 3,
    });
  });

  it('a linear layer frees its memory once', () => {
    const backend = createCpuBackend();
    const before = backend.liveBytes();
    for (let i = 0; i < 10_000; i++) {
      const layer = backend.createLinear({ type: 'fp32', rows: 4, cols: 4, weights: new Float32Array(16) });
      layer.dispose();
      layer.dispose();
    }
    expect(backend.liveBytes()).toBe(before);
    const layer = backend.createLinear({ type: 'fp32', rows: 4, cols: 4, weights: new Float32Array(16) });
    expect(backend.liveBytes()).toBeGreaterThan(before);
    layer.dispose();
    expect(() => layer.forwardSync(new Float32Array(4), 1)).toThrow(expect.objectContaining({ code: 'ERR_DISPOSED' }));
  });
});
