import { judgeAttention, type KvCacheView, tensor } from '@int-flash/ops';
import {
  dequantizePerGroupInt4,
  exp2Polynomial,
  quantizePerGroupInt4,
  quantizePerTokenInt4,
  quantizePerTokenInt8,
} from '@int-flash/quant';
import { cacheAttention, makeInputs, seededNormal, seededUniform } from '@int-flash/reference';
import { describe, expect, it } from 'vitest';
import { createCpuBackend, supportedIsas } from '../src/cpu-backend.js';
import { createPortableBackend } from '../src/portable-backend.js';

const normals = (count: number, seed: number) =>
  Float32Array.from({ length: count }, seededNormal(seededUniform(seed)));

function expectUlp(actual: Float32Array, expected: Float32Array): void {
  expect(actual.length).toBe(expected.length);
  const [a, b] = [new Int32Array(actual.buffer), new Int32Array(expected.buffer)];
  // Of one sign the bits of floats count their order; zeros of either sign are one number.
  const worst = a.reduce(
    (max, bits, i) => (actual[i] === expected[i] ? max : Math.max(max, Math.abs(bits - b[i]!))),
    0,
  );
  expect(worst).toBeLessThanOrEqual(1);
}

describe('cacheAttentionSync does the twin’s arithmetic', () => {
  const cases = (['fp32', 'int8', 'int4'] as const).flatMap((type) =>
    [1, 2, 8, 9, 21].flatMap((tokens) =>
      [21, 130, 1024, 1025, 2100].map((length) => ({ type, tokens, length, windowLeft: length % 2 ? 200 : Infinity })),
    ),
  );
  it.each(cases)('$type, $tokens tokens of $length, window $windowLeft', ({ type, tokens, length, windowLeft }) => {
    const [heads, kvHeads, headDim, capacity] = [3, 1, 16, length + 3];
    const args = {
      query: normals(tokens * heads * headDim, 1),
      tokens,
      heads,
      cache: makeCache(type, kvHeads, capacity, headDim, length),
      scale: 0.3, // no float32 number: everyone must round it alike
      windowLeft,
      softcap: tokens === 2 ? 20 : 0,
    };
    expectUlp(createPortableBackend().cacheAttentionSync(args), cacheAttention(args));
  });

  it('reads two key/value heads, and writes into the array it is given', () => {
    const args = {
      query: normals(2 * 4 * 8, 2),
      tokens: 2,
      heads: 4,
      cache: makeCache('int8', 2, 40, 8, 33),
      scale: 1,
      windowLeft: Infinity,
      softcap: 0,
    };
    const out = new Float32Array(64);
    expect(createPortableBackend().cacheAttentionSync(args, out)).toBe(out);
    expectUlp(out, cacheAttention(args));
  });

  it('refuses scores beyond 2^100', () => {
    const cache = makeCache('int8', 1, 40, 8, 33) as KvCacheView & { keyScales: Float32Array };
    cache.keyScales.fill(2 ** 60);
    const args = {
      query: normals(8, 2).fill(2 ** 60),
      tokens: 1,
      heads: 1,
      cache,
      scale: 1,
      windowLeft: Infinity,
      softcap: 0,
    };
    const overflow = expect.objectContaining({ code: 'ERR_OVERFLOW' });
    expect(() => createPortableBackend().cacheAttentionSync(args)).toThrow(overflow);
  });

  it('refuses arrays that do not fit', () => {
    const args = {
      query: normals(8, 2),
      tokens: 1,
      heads: 1,
      cache: makeCache('int8', 1, 40, 8, 33),
      scale: 1,
      windowLeft: Infinity,
      softcap: 0,
    };
    const backend = createPortableBackend();
    for (const wrong of [
      { query: normals(9, 1) },
      { heads: 2 },
      { tokens: 34 },
      { cache: { ...args.cache, length: 41 } as KvCacheView },
    ]) {
      expect(() => backend.cacheAttentionSync({ ...args, ...wrong })).toThrow(
        expect.objectContaining({ code: 'ERR_SHAPE' }),
      );
    }
  });
});

describe.each([
  ['portable', createPortableBackend],
  ...(supportedIsas().length > 0 ? ([['cpu', createCpuBackend]] as const) : []),
] as const)('arrays that say another length, %s', (_, create) => {
  const saying = <T extends object>(array: T, length: number): T =>
    Object.defineProperty(array, 'length', { value: length });
  const shape = expect.objectContaining({ code: 'ERR_SHAPE' });
  const weights = {
    fp32: { type: 'fp32', rows: 4, cols: 32, weights: normals(128, 1) },
    int8: { type: 'int8', rows: 4, cols: 32, ...codesOf(normals(128, 1), 32) },
    int4: { type: 'int4', rows: 4, cols: 32, ...quantizePerGroupInt4(normals(128, 1), 32, 32) },
  } as const;

  it.each(Object.values(weights))('weights, inputs and outputs of a layer, $type', (given) => {
    const input = normals(5 * 32, 2);
    const expected = create().createLinear(given).forwardSync(input, 5);
    for (const [field, value] of Object.entries(given)) {
      if (!ArrayBuffer.isView(value)) continue;
      const { length } = value as Float32Array;
      const other = saying((value as Float32Array).slice(), 3 * length);
      expect(
        create()
          .createLinear({ ...given, [field]: other })
          .forwardSync(input, 5),
      ).toEqual(expected);
      const short = saying((value as Float32Array).slice(1), length);
      expect(() => create().createLinear({ ...given, [field]: short })).toThrow(shape);
    }
    const linear = create().createLinear(given);
    const out = saying(new Float32Array(20), 8);
    linear.forwardSync(saying(input.slice(), 64), 5, out);
    expect(linear.forwardSync(saying(input.slice(), 64), 5)).toEqual(expected);
    expect(out.subarray(0)).toEqual(expected);
    expect(() => linear.forwardSync(saying(new Float32Array(32), 160), 5)).toThrow(shape);
    expect(() => linear.forwardSync(input, 5, saying(new Float32Array(8), 20))).toThrow(shape);
  });

  it.each(['fp32', 'int8', 'int4'] as const)('queries, caches and outputs, %s', (type) => {
    const cache = makeCache(type, 1, 40, 8, 33);
    const args = { query: normals(16, 2), tokens: 1, heads: 2, cache, scale: 1, windowLeft: Infinity, softcap: 0 };
    const backend = create();
    const expected = backend.cacheAttentionSync(args);
    const lied = { ...args, query: saying(args.query.slice(), 8) };
    expect(backend.cacheAttentionSync(lied)).toEqual(expected);
    expect(() => backend.cacheAttentionSync({ ...args, query: saying(normals(8, 2), 16) })).toThrow(shape);
    expect(() => backend.cacheAttentionSync(args, saying(new Float32Array(8), 16))).toThrow(shape);
    for (const [field, value] of Object.entries(cache)) {
      if (!ArrayBuffer.isView(value)) continue;
      const { length } = value as Float32Array;
      const long = { ...cache, [field]: saying((value as Float32Array).slice(), 2) } as KvCacheView;
      expect(backend.cacheAttentionSync({ ...args, cache: long })).toEqual(expected);
      const short = { ...cache, [field]: saying((value as Float32Array).slice(1), length) } as KvCacheView;
      expect(() => backend.cacheAttentionSync({ ...args, cache: short })).toThrow(shape);
    }
  });

  it('is none that another type of value has', () => {
    const linear = create().createLinear(weights.int8);
    for (const wrong of [[...normals(32, 1)], { length: 32 }, null])
      expect(() => linear.forwardSync(wrong as never, 1)).toThrow(expect.objectContaining({ code: 'ERR_ARG_TYPE' }));
  });
});

function codesOf(rows: Float32Array, cols: number) {
  const { values: codes, scales } = quantizePerTokenInt8(rows, cols);
  return { codes, scales };
}

function makeCache(
  type: KvCacheView['type'],
  kvHeads: number,
  capacity: number,
  headDim: number,
  length: number,
): KvCacheView {
  const base = { kvHeads, capacity, headDim, length };
  const [keys, values] = [normals(kvHeads * capacity * headDim, 3), normals(kvHeads * capacity * headDim, 4)];
  values.fill(0, 0, headDim); // a zero row: its scale is the smallest there is
  if (type === 'fp32') return { ...base, type, keys, values };
  const quantize = (rows: Float32Array) => {
    if (type === 'int8') return quantizePerTokenInt8(rows, headDim);
    const { packed, scales } = quantizePerTokenInt4(rows, headDim);
    return { values: packed, scales };
  };
  const [k, v] = [quantize(keys), quantize(values)];
  return { ...base, type, keys: k.values, values: v.values, keyScales: k.scales, valueScales: v.scales } as KvCacheView;
}

describe('createLinear', () => {
  const shapes = [1, 3, 4, 9].flatMap((tokens) =>
    [
      [5, 8],
      [16, 33],
      [6, 2500],
    ].map(([rows, cols]) => ({ tokens, rows: rows!, cols: cols! })),
  );

  it.each(shapes)('int8: exact sums, $tokens tokens, $rows × $cols', ({ tokens, rows, cols }) => {
    const input = normals(tokens * cols, 5);
    const { values: codes, scales } = quantizePerTokenInt8(normals(rows * cols, 6), cols);
    codes.fill(127, 0, cols); // the largest sums there are
    const bias = normals(rows, 7);
    const x = quantizePerTokenInt8(input, cols);
    const expected = Float32Array.from({ length: tokens * rows }, (_, i) => {
      const [t, r] = [Math.floor(i / rows), i % rows];
      let sum = 0;
      for (let c = 0; c < cols; c++) sum += x.values[t * cols + c]! * codes[r * cols + c]!;
      return Math.fround(Math.fround(sum) * Math.fround(x.scales[t]! * scales[r]!)) + bias[r]!;
    });
    const linear = createPortableBackend().createLinear({ type: 'int8', rows, cols, codes, scales, bias });
    expect(linear.forwardSync(input, tokens)).toEqual(expected);
  });

  it.each(shapes)('fp32: float64 sums, $tokens tokens, $rows × $cols', ({ tokens, rows, cols }) => {
    const [input, weights] = [normals(tokens * cols, 5), normals(rows * cols, 6)];
    const expected = Float32Array.from({ length: tokens * rows }, (_, i) => {
      let sum = 0;
      for (let c = 0; c < cols; c++) sum += input[Math.floor(i / rows) * cols + c]! * weights[(i % rows) * cols + c]!;
      return sum;
    });
    const linear = createPortableBackend().createLinear({ type: 'fp32', rows, cols, weights });
    expect(linear.forwardSync(input, tokens)).toEqual(expected);
  });

  it.each(supportedIsas())('int8: the bits of the native layer, %s', (isa) => {
    const [tokens, rows, cols] = [5, 13, 384];
    const { values: codes, scales } = quantizePerTokenInt8(normals(rows * cols, 6), cols);
    const weights = { type: 'int8', rows, cols, codes, scales, bias: normals(rows, 7) } as const;
    const input = normals(tokens * cols, 5);
    const native = createCpuBackend({ isa, threads: 1 }).createLinear(weights);
    expect(createPortableBackend().createLinear(weights).forwardSync(input, tokens)).toEqual(
      native.forwardSync(input, tokens),
    );
    native.dispose();
  });

  it('INT4: the bits of the float layer that the codes stand for, largest scales included', () => {
    const backend = createPortableBackend();
    for (const rows of [1, 5, 32, 75]) {
      const [cols, group] = [64, 32] as const;
      const coded = quantizePerGroupInt4(normals(rows * cols, rows), cols, group);
      coded.scales[0] = 2 ** 125; // 7 times this is beyond the largest float32
      const shape = { rows, cols, bias: normals(rows, 3) };
      const int4 = backend.createLinear({ type: 'int4', ...shape, ...coded });
      const fp32 = backend.createLinear({ type: 'fp32', ...shape, weights: dequantizePerGroupInt4(coded) });
      for (const tokens of [1, 3, 4, 9]) {
        const input = normals(tokens * cols, tokens).map((x) => x * 2 ** -10);
        expect([...int4.forwardSync(input, tokens)]).toEqual([...fp32.forwardSync(input, tokens)]);
      }
    }
  });

  it('copies the weights, counts their bytes, and gives them back', () => {
    const backend = createPortableBackend();
    const weights = new Float32Array(32).fill(1);
    const linear = backend.createLinear({ type: 'fp32', rows: 4, cols: 8, weights });
    weights.fill(2);
    expect(linear.forwardSync(new Float32Array(8).fill(1), 1)).toEqual(new Float32Array(4).fill(8));
    expect(backend.liveBytes()).toBe(4 * 8 * 4);
    linear.dispose();
    linear.dispose();
    expect(backend.liveBytes()).toBe(0);
    expect(() => linear.forwardSync(new Float32Array(8), 1)).toThrow(expect.objectContaining({ code: 'ERR_DISPOSED' }));
  });

  it('refuses arrays that do not fit, and non-finite input', () => {
    const backend = createPortableBackend();
    const shape = { type: 'fp32', rows: 4, cols: 8 } as const;
    expect(() => backend.createLinear({ ...shape, weights: new Float32Array(31) })).toThrow(
      /to hold 32 elements, got 31/,
    );
    expect(() => backend.createLinear({ ...shape, weights: new Float32Array(32), bias: new Float32Array(3) })).toThrow(
      /bias/,
    );
    const linear = backend.createLinear({
      type: 'int8',
      rows: 4,
      cols: 8,
      codes: new Int8Array(32),
      scales: new Float32Array(4).fill(1),
    });
    expect(() => linear.forwardSync(new Float32Array(9), 1)).toThrow(expect.objectContaining({ code: 'ERR_SHAPE' }));
    expect(() => linear.forwardSync(new Float32Array(8).fill(Number.NaN), 1)).toThrow(
      expect.objectContaining({ code: 'ERR_NONFINITE' }),
    );
  });
});

describe('attention, asynchronously', () => {
  const inputs = makeInputs('normal', { heads: 2, queries: 400, keys: 400, headDim: 32 }, 1);
  const plan = judgeAttention(inputs, { returnLse: true });

  it('gives the bits of the synchronous call, whatever happens to the inputs meanwhile', async () => {
    const backend = createPortableBackend();
    const expected = backend.attentionSync(plan);
    const copies = { query: copy(inputs.query), key: copy(inputs.key), value: copy(inputs.value) };
    const pending = backend.attention(judgeAttention(copies, { returnLse: true }));
    for (const { data } of Object.values(copies)) (data as Float32Array).fill(Number.NaN);
    expect(await pending).toEqual(expected);
  });

  it('lets the event loop turn, and several calls take turns', async () => {
    const backend = createPortableBackend();
    let turns = 0;
    let running = true;
    const count = () => {
      turns++;
      if (running) setImmediate(count);
    };
    setImmediate(count);
    const results = await Promise.all([backend.attention(plan), backend.attention(plan), backend.attention(plan)]);
    running = false;
    expect(turns).toBeGreaterThanOrEqual(3);
    expect(results[0]).toEqual(results[2]);
  });

  it('rejects with the signal’s reason, before and after the start, and goes on to the next call', async () => {
    const backend = createPortableBackend();
    const reason = new Error('enough');
    await expect(backend.attention(plan, AbortSignal.abort(reason))).rejects.toBe(reason);
    const controller = new AbortController();
    const pending = backend.attention(plan, controller.signal);
    setImmediate(() => setImmediate(() => controller.abort(reason)));
    const next = backend.attention(plan);
    await expect(pending).rejects.toBe(reason);
    expect((await next).out.length).toBe(plan.outDims.reduce((product, dim) => product * dim, 1));
  });

  it('rejects what the arithmetic refuses', async () => {
    const bad = tensor('float32', new Float32Array(8).fill(Infinity), [1, 1, 1, 8]);
    await expect(
      createPortableBackend().attention(judgeAttention({ query: bad, key: bad, value: bad })),
    ).rejects.toMatchObject({ code: 'ERR_NONFINITE' });
  });
});

function copy(t: { dims: readonly number[]; data: Float32Array }) {
  return tensor('float32', t.data.slice(), t.dims);
}

it('writes out the exponential that quant defines', () => {
  // One key besides one of score 0: out = p / (1 + p) shows p = exp2Polynomial(score) to float32 accuracy.
  const backend = createPortableBackend();
  for (const score of [0, -0.3, -1, -7.7, -20, -124, -130]) {
    const query = tensor('float32', Float32Array.of(1, 0, 0, 0, 0, 0, 0, 0), [1, 1, 1, 8]);
    const key = tensor('float32', Float32Array.of(0, 0, 0, 0, 0, 0, 0, 0, score, 0, 0, 0, 0, 0, 0, 0), [1, 1, 2, 8]);
    const value = tensor('float32', Float32Array.of(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1), [1, 1, 2, 8]);
    const { out } = backend.attentionSync(judgeAttention({ query, key, value }, { precision: 'fp32', scale: 1 }));
    const p = exp2Polynomial(Math.fround(score * Math.fround(Math.LOG2E)));
    expect(out[0]).toBe(Math.fround(p / Math.fround(1 + p)));
  }
});
