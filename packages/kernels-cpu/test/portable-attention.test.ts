import {
  type AttentionResult,
  fromFloat32,
  judgeAttention,
  judgeQuantizedAttention,
  PRECISIONS,
  tensor,
} from '@int-flash/ops';
import { quantizePerTokenInt8, quantizeTokenLevelV } from '@int-flash/quant';
import {
  INPUT_FAMILIES,
  int8Attention,
  makeInputs,
  predictRelativeRms,
  relativeL2,
  seededUniform,
  softmaxAttention,
} from '@int-flash/reference';
import { describe, expect, it } from 'vitest';
import { createPortableBackend } from '../src/portable-backend.js';

const backend = createPortableBackend();

/** Distance of two float32 numbers in units of the last place. */
function ulps(a: number, b: number): number {
  if (Object.is(a, b) || a === b) return 0;
  const bits = new Int32Array(new Float32Array([a, b]).buffer);
  const [x, y] = Array.from(bits, (word) => (word < 0 ? -(word & 0x7fffffff) : word)) as [number, number];
  return Math.abs(x - y);
}

function worstUlps(actual: Float32Array, expected: Float32Array): number {
  expect(actual.length).toBe(expected.length);
  let worst = 0;
  for (let i = 0; i < actual.length; i++) worst = Math.max(worst, ulps(actual[i]!, expected[i]!));
  return worst;
}

function expectTwin(result: AttentionResult, plan: Parameters<typeof int8Attention>[0]): void {
  const twin = int8Attention(plan);
  expect(worstUlps(result.out, twin.out), 'ulps of out').toBeLessThanOrEqual(1);
  if (result.lse) expect(worstUlps(result.lse, twin.lse), 'ulps of lse').toBeLessThanOrEqual(1);
}

const MODES = ['full', 'causal', 'bottom-right', 'window', 'bool mask', 'float mask', 'softcap', 'varlen'] as const;

/** A problem drawn from `seed`: shapes with ragged tiles and blocks, every mode, every layout. */
function drawCase(seed: number) {
  const uniform = seededUniform(seed);
  const pick = <T>(choices: readonly T[]): T => choices[Math.floor(uniform() * choices.length)]!;
  const mode = MODES[seed % MODES.length]!;
  const kvHeads = pick([1, 2]);
  const shape = {
    batch: mode === 'varlen' ? 1 : pick([1, 2]),
    heads: kvHeads * pick([1, 3]),
    kvHeads,
    queries: pick([1, 2, 5, 16, 17, 33]),
    keys: pick([1, 3, 65, 127, 128, 129, 260]),
    headDim: pick([8, 16, 40, 64]),
    headDimV: pick([8, 24, 64]),
  };
  const inputs = makeInputs(pick(INPUT_FAMILIES), shape, seed);
  const options: Record<string, unknown> = { returnLse: true, smoothK: uniform() < 0.7 };
  if (mode === 'causal') options.isCausal = true;
  if (mode === 'bottom-right') Object.assign(options, { isCausal: true, causalAlignment: 'bottom-right' });
  if (mode === 'window') options.windowSize = [pick([-1, 0, 7, 130]), pick([-1, 0, 40])];
  if (mode === 'softcap') options.softcap = pick([2, 30]);
  const maskDims = [pick([1, shape.batch]), pick([1, shape.heads]), pick([1, shape.queries]), shape.keys];
  const maskCount = maskDims.reduce((product, dim) => product * dim, 1);
  if (mode === 'bool mask') {
    const allowed = Uint8Array.from({ length: maskCount }, () => (uniform() < 0.5 ? 1 : 0));
    options.attnMask = tensor('bool', allowed, maskDims);
  }
  if (mode === 'float mask') {
    const bias = Float32Array.from({ length: maskCount }, () => (uniform() < 0.3 ? -Infinity : 3 * uniform()));
    options.attnMask = tensor('float32', bias, maskDims);
  }
  if (mode === 'varlen') {
    const cut = (total: number) => [0, Math.floor(total * uniform()), total];
    Object.assign(options, { tensorLayout: 'NHD', cuSeqlensQ: cut(shape.queries), cuSeqlensK: cut(shape.keys) });
    // The same numbers read as [tokens, heads, dim]: any layout of random numbers is as good as another.
    const { query, key, value } = inputs;
    return {
      mode,
      options,
      inputs: {
        query: tensor('float32', query.data, [shape.queries, shape.heads, shape.headDim]),
        key: tensor('float32', key.data, [shape.keys, kvHeads, shape.headDim]),
        value: tensor('float32', value.data, [shape.keys, kvHeads, shape.headDimV]),
      },
    };
  }
  return { mode, options, inputs };
}

describe.each(PRECISIONS)('%s does the twin’s arithmetic', (precision) => {
  it.each(Array.from({ length: 72 }, (_, seed) => seed))('case %i', (seed) => {
    const { inputs, options } = drawCase(seed);
    const plan = judgeAttention(inputs, { ...options, precision });
    expectTwin(backend.attentionSync(plan), plan);
  });
});

describe('quantizedAttention does the twin’s arithmetic', () => {
  it.each(Array.from({ length: 24 }, (_, seed) => seed))('case %i', (seed) => {
    const uniform = seededUniform(seed + 1000);
    const [batch, heads, kvHeads, queries, keys, dim] = [2, 4, 2, 9, 1 + Math.floor(300 * uniform()), 32];
    const { query, key, value } = makeInputs('normal', { batch, heads, kvHeads, queries, keys, headDim: dim }, seed);
    const q = quantizePerTokenInt8(query.data, dim);
    const k = quantizePerTokenInt8(key.data, dim);
    const tokenLevel = seed % 2 === 0;
    const values = tokenLevel ? undefined : quantizePerTokenInt8(value.data, keys * dim);
    const perHead = Array.from({ length: batch * kvHeads }, (_, h) =>
      quantizeTokenLevelV(value.data.subarray(h * keys * dim, (h + 1) * keys * dim), dim),
    );
    const join = (field: 'tokenWeights' | 'channelScales') =>
      Float32Array.from(perHead.flatMap((head) => Array.from(head[field])));
    const plan = judgeQuantizedAttention(
      {
        q: tensor('int8', q.values, query.dims),
        k: tensor('int8', k.values, key.dims),
        v: tensor(
          'int8',
          values?.values ?? Int8Array.from(perHead.flatMap((head) => Array.from(head.values))),
          value.dims,
        ),
        qScale: tensor('float32', q.scales, [batch, heads, queries]),
        kScale: tensor('float32', k.scales, [batch, kvHeads, keys]),
        vScale: values
          ? tensor('float32', values.scales, [batch, kvHeads])
          : tensor('float32', join('tokenWeights'), [batch, kvHeads, keys]),
        ...(tokenLevel ? { vChannelScale: tensor('float32', join('channelScales'), [batch, kvHeads, dim]) } : {}),
      },
      {
        returnLse: true,
        isCausal: seed % 3 === 0,
        precision: !tokenLevel && seed % 4 === 1 ? 'paper-int8' : 'full-int8',
      },
    );
    expectTwin(backend.quantizedAttentionSync(plan), plan);
  });
});

describe('is as accurate as its precision allows', () => {
  const cases = (['full-int8', 'half-int8', 'paper-int8', 'int4-qk'] as const).flatMap((precision) =>
    INPUT_FAMILIES.map((family) => ({ precision, family })),
  );
  it.each(cases)('$precision, $family', ({ precision, family }) => {
    const plan = judgeAttention(makeInputs(family, { heads: 2, queries: 48, keys: 384, headDim: 64 }, 3), {
      precision,
    });
    const measured = relativeL2(backend.attentionSync(plan).out, softmaxAttention(plan).out);
    // The prediction takes every rounding as independent uniform noise; these problems came to 0.70–1.11 of it. The floor counts: a path that
    // forgot to quantize passes any ceiling.
    const ratio = measured / predictRelativeRms(plan);
    expect(ratio).toBeGreaterThan(0.5);
    expect(ratio).toBeLessThan(1.25);
  });

  it.each(INPUT_FAMILIES)('fp32, %s: float32 rounding only', (family) => {
    const plan = judgeAttention(makeInputs(family, { heads: 2, queries: 48, keys: 384, headDim: 64 }, 3), {
      precision: 'fp32',
    });
    const measured = relativeL2(backend.attentionSync(plan).out, softmaxAttention(plan).out);
    // The exponential errs by up to 2.8e-6 of itself; a score of float32 by some 2^-24 · 64 steps, less. Not 0: P is not float64.
    expect(measured).toBeLessThan(1e-5);
    expect(measured).toBeGreaterThan(1e-8);
  });
});

describe('inputs in every form give the same bits', () => {
  const shape = { batch: 2, heads: 2, kvHeads: 1, queries: 19, keys: 140, headDim: 16 };
  const { query, key, value } = makeInputs('normal', shape, 9);
  const run = (inputs: unknown, options = {}) =>
    backend.attentionSync(judgeAttention(inputs, { returnLse: true, ...options }));

  it.each(['float16', 'bfloat16'] as const)('%s, against the float32 numbers they are', (type) => {
    const narrow = (t: typeof query) => tensor(type, fromFloat32(t.data, type), t.dims);
    const widen = (t: typeof query) => {
      const bits = fromFloat32(t.data, type);
      const data = Float32Array.from(bits, (word) => (type === 'float16' ? halfValue(word) : bfloatValue(word)));
      return tensor('float32', data, t.dims);
    };
    const narrowed = run({ query: narrow(query), key: narrow(key), value: narrow(value) });
    expect(narrowed).toEqual(run({ query: widen(query), key: widen(key), value: widen(value) }));
  });

  it('strided: rows 5 elements apart, NaN between them', () => {
    const spread = (t: typeof query) => {
      const [b, h, n, d] = t.dims as [number, number, number, number];
      const row = d + 5;
      const data = new Float32Array(b * h * n * row).fill(Number.NaN);
      for (let i = 0; i < b * h * n; i++) data.set(t.data.subarray(i * d, (i + 1) * d), i * row);
      return { type: 'float32', dims: t.dims, data, strides: [h * n * row, n * row, row, 1] };
    };
    expect(run({ query: spread(query), key: spread(key), value: spread(value) })).toEqual(run({ query, key, value }));
  });

  it('NHD', () => {
    const swap = (data: Float32Array, [b, h, n, d]: readonly number[]) => {
      const out = new Float32Array(data.length);
      for (let i = 0; i < b!; i++)
        for (let j = 0; j < h!; j++)
          for (let t = 0; t < n!; t++) {
            const from = ((i * h! + j) * n! + t) * d!;
            out.set(data.subarray(from, from + d!), ((i * n! + t) * h! + j) * d!);
          }
      return out;
    };
    const nhd = (t: typeof query) =>
      tensor(
        'float32',
        swap(t.data, t.dims),
        [0, 2, 1, 3].map((axis) => t.dims[axis]!),
      );
    const expected = run({ query, key, value });
    const actual = run({ query: nhd(query), key: nhd(key), value: nhd(value) }, { tensorLayout: 'NHD' });
    expect(actual.out).toEqual(swap(expected.out, query.dims));
    expect(actual.lse).toEqual(expected.lse);
  });
});

function halfValue(bits: number): number {
  const [exponent, fraction] = [(bits >> 10) & 31, bits & 1023];
  const magnitude = exponent === 0 ? fraction * 2 ** -24 : (1 + fraction / 1024) * 2 ** (exponent - 15);
  return bits & 0x8000 ? -magnitude : magnitude;
}

function bfloatValue(bits: number): number {
  return new Float32Array(new Uint32Array([bits << 16]).buffer)[0]!;
}

describe('edges', () => {
  const ones = (dims: number[], value = 1) =>
    tensor('float32', new Float32Array(dims.reduce((a, b) => a * b, 1)).fill(value), dims);
  const run = (inputs: unknown, options = {}) =>
    backend.attentionSync(judgeAttention(inputs, { returnLse: true, ...options }));

  it.each(PRECISIONS)('%s: no keys give zeros and -Infinity; no queries give nothing', (precision) => {
    const none = run({ query: ones([1, 1, 3, 8]), key: ones([1, 1, 0, 8]), value: ones([1, 1, 0, 8]) }, { precision });
    expect(none.out).toEqual(new Float32Array(24));
    expect(none.lse).toEqual(new Float32Array(3).fill(-Infinity));
    const empty = run({ query: ones([1, 1, 0, 8]), key: ones([1, 1, 3, 8]), value: ones([1, 1, 3, 8]) }, { precision });
    expect(empty.out.length).toBe(0);
  });

  it.each(PRECISIONS)('%s: zero rows, subnormals and large numbers stay finite', (precision) => {
    for (const [q, k, v] of [
      [0, 0, 0],
      [1, 0, 1],
      [2 ** -140, 2 ** -140, 2 ** -140],
      [2 ** 40, 2 ** 40, 30_000],
    ] as const) {
      const { out } = run(
        { query: ones([1, 1, 4, 8], q), key: ones([1, 1, 5, 8], k), value: ones([1, 1, 5, 8], v) },
        { precision },
      );
      // Equal values: whatever the weights, their mean is the value. Steps of V's grid at this magnitude: 1 / 127 at most.
      for (const x of out) expect(Math.abs(x - v)).toBeLessThanOrEqual(v / 127 + 2 ** -126);
    }
  });

  it.each(PRECISIONS)('%s: refuses NaN and Infinity, naming the element', (precision) => {
    for (const name of ['query', 'key', 'value'] as const) {
      for (const bad of [Number.NaN, Infinity, -Infinity]) {
        const inputs = { query: ones([1, 2, 3, 8]), key: ones([1, 2, 3, 8]), value: ones([1, 2, 3, 8]) };
        (inputs[name].data as Float32Array)[8 * 4 + 2] = bad; // head 1, token 1, channel 2
        const place = `Expected ${name} to hold finite numbers, got ${bad} at batch 0, head 1, token 1, channel 2`;
        expect(() => run(inputs, { precision })).toThrow(
          expect.objectContaining({ code: 'ERR_NONFINITE', message: place }),
        );
      }
    }
  });

  it.each(PRECISIONS)('%s: refuses scores beyond 2^100', (precision) => {
    const inputs = { query: ones([1, 1, 1, 8], 2 ** 60), key: ones([1, 1, 1, 8], 2 ** 60), value: ones([1, 1, 1, 8]) };
    expect(() => run(inputs, { precision, smoothK: false })).toThrow(expect.objectContaining({ code: 'ERR_OVERFLOW' }));
  });

  it.each(PRECISIONS)('%s: refuses keys or values beyond 2^100, however small the rest', (precision) => {
    const small = ones([1, 1, 1, 8], 2 ** -60);
    const large = ones([1, 1, 1, 8], 2 ** 101);
    const overflow = expect.objectContaining({ code: 'ERR_OVERFLOW' });
    expect(() => run({ query: small, key: large, value: small }, { precision })).toThrow(overflow);
    expect(() => run({ query: small, key: small, value: large }, { precision })).toThrow(overflow);
  });

  it('half-int8 refuses values that float16 cannot hold', () => {
    const inputs = { query: ones([1, 1, 1, 8]), key: ones([1, 1, 1, 8]), value: ones([1, 1, 1, 8], 65505) };
    expect(() => run(inputs, { precision: 'half-int8' })).toThrow(expect.objectContaining({ code: 'ERR_OVERFLOW' }));
  });

  it('a mask of -FLT_MAX on every key is uniform attention, not NaN', () => {
    const bias = tensor('float32', new Float32Array(4).fill(-3.4028234663852886e38), [1, 4]);
    const value = tensor(
      'float32',
      Float32Array.from({ length: 32 }, (_, i) => Math.floor(i / 8)),
      [1, 1, 4, 8],
    );
    const { out } = run(
      { query: ones([1, 1, 1, 8]), key: ones([1, 1, 4, 8]), value },
      { attnMask: bias, precision: 'fp32' },
    );
    expect(out).toEqual(new Float32Array(8).fill(1.5));
  });
});
