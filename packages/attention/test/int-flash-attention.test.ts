import { judgeAttention } from '@int-flash/ops';
import { quantizePerTokenInt8 } from '@int-flash/quant';
import { int8Attention, makeInputs, relativeL2, softmaxAttention } from '@int-flash/reference';
import { describe, expect, it } from 'vitest';
import {
  intFlashAttention,
  intFlashAttentionQuantized,
  intFlashAttentionQuantizedSync,
  intFlashAttentionSync,
  tensor,
} from '../src/index.js';

const portable = { backend: 'portable' } as const;
const good = () => makeInputs('normal', { heads: 4, kvHeads: 2, queries: 6, keys: 9, headDim: 16 }, 1);
const zeros = (...dims: number[]) => tensor('float32', new Float32Array(dims.reduce((a, b) => a * b, 1)), dims);
const all = (t: unknown) => ({ query: t, key: t, value: t });

/** A detached array: its memory went to another thread. */
function detached(length: number): Float32Array {
  const array = new Float32Array(length);
  structuredClone(array.buffer, { transfer: [array.buffer] });
  return array;
}

function resizable(bytes: number): ArrayBuffer {
  return new (ArrayBuffer as new (length: number, options: object) => ArrayBuffer)(bytes, { maxByteLength: 2 * bytes });
}

function revoked(): object {
  const { proxy, revoke } = Proxy.revocable({}, {});
  revoke();
  return proxy;
}

const throwing = {
  get backend(): string {
    throw new Error('no answer');
  },
};

type Row = readonly [what: string, code: string, inputs: unknown, options?: unknown];
const t = { type: 'float32', dims: [1, 1, 2, 8], data: new Float32Array(16) };
const rows: Row[] = [
  ['null', 'ERR_ARG_TYPE', null],
  ['undefined', 'ERR_ARG_TYPE', undefined],
  ['an array', 'ERR_ARG_TYPE', [t, t, t]],
  ['a DataView', 'ERR_ARG_TYPE', new DataView(new ArrayBuffer(8))],
  ['a string', 'ERR_ARG_TYPE', 'qkv'],
  ['no value', 'ERR_ARG_TYPE', { query: t, key: t }],
  ['an unknown input', 'ERR_ARG_RANGE', { ...all(t), mask: t }],
  ['a bare Float32Array', 'ERR_ARG_TYPE', all(new Float32Array(16))],
  ['a tensor that is null', 'ERR_ARG_TYPE', all(null)],
  ['BigInt64Array data', 'ERR_ARG_TYPE', all({ ...t, data: new BigInt64Array(16) })],
  ['DataView data', 'ERR_ARG_TYPE', all({ ...t, data: new DataView(new ArrayBuffer(64)) })],
  ['Proxy data', 'ERR_ARG_TYPE', all({ ...t, data: new Proxy(new Float32Array(16), {}) })],
  ['plain array data', 'ERR_ARG_TYPE', all({ ...t, data: new Array(16).fill(0) })],
  ['Float64Array data', 'ERR_ARG_TYPE', all({ ...t, data: new Float64Array(16) })],
  ['type float64', 'ERR_ARG_TYPE', all({ ...t, type: 'float64' })],
  ['type __proto__', 'ERR_ARG_TYPE', all({ ...t, type: '__proto__' })],
  ['int8 tensors', 'ERR_ARG_TYPE', all({ ...t, type: 'int8', data: new Int8Array(16) })],
  ['type and data that disagree', 'ERR_ARG_TYPE', all({ ...t, type: 'float16' })],
  ['dims missing', 'ERR_ARG_TYPE', all({ ...t, dims: undefined })],
  ['dims a string', 'ERR_ARG_TYPE', all({ ...t, dims: '1,1,2,8' })],
  ['a negative dim', 'ERR_ARG_RANGE', all({ ...t, dims: [1, 1, -2, 8] })],
  ['a NaN dim', 'ERR_ARG_RANGE', all({ ...t, dims: [1, 1, Number.NaN, 8] })],
  ['a fractional dim', 'ERR_ARG_RANGE', all({ ...t, dims: [1, 1, 1.5, 8] })],
  ['a string dim', 'ERR_ARG_RANGE', all({ ...t, dims: [1, 1, '2', 8] })],
  ['too little data', 'ERR_SHAPE', all({ ...t, data: new Float32Array(15) })],
  ['too much data', 'ERR_SHAPE', all({ ...t, data: new Float32Array(17) })],
  ['rank 2', 'ERR_SHAPE', all({ ...t, dims: [2, 8] })],
  ['rank 5', 'ERR_SHAPE', all({ ...t, dims: [1, 1, 1, 2, 8] })],
  ['rank 9', 'ERR_SHAPE', all({ ...t, dims: [1, 1, 1, 1, 1, 1, 1, 2, 8] })],
  ['elements beyond 2^53', 'ERR_OVERFLOW', all({ ...t, dims: [2 ** 30, 2 ** 20, 2 ** 10, 8] })],
  ['strides past the data', 'ERR_SHAPE', all({ ...t, strides: [16, 16, 9, 1] })],
  ['strides beyond 2^53', 'ERR_OVERFLOW', all({ ...t, strides: [1, 1, 2 ** 53, 1] })],
  ['too few strides', 'ERR_SHAPE', all({ ...t, strides: [8, 1] })],
  ['a negative stride', 'ERR_ARG_RANGE', all({ ...t, strides: [16, 16, -8, 1] })],
  [
    'a head dimension with stride 2',
    'ERR_UNSUPPORTED',
    all({ type: 'float32', dims: [1, 1, 2, 8], data: new Float32Array(64), strides: [32, 32, 16, 2] }),
  ],
  ['head dim 0', 'ERR_SHAPE', all(zeros(1, 1, 2, 0))],
  ['head dim 257', 'ERR_UNSUPPORTED', all(zeros(1, 1, 2, 257))],
  ['head dim 264', 'ERR_UNSUPPORTED', all(zeros(1, 1, 2, 264))],
  ['head dim 65', 'ERR_UNSUPPORTED', all(zeros(1, 1, 2, 65))],
  [
    '3 heads, 2 key/value heads',
    'ERR_SHAPE',
    { query: zeros(1, 3, 2, 8), key: zeros(1, 2, 2, 8), value: zeros(1, 2, 2, 8) },
  ],
  [
    'GQA when it is off',
    'ERR_SHAPE',
    { query: zeros(1, 2, 2, 8), key: zeros(1, 1, 2, 8), value: zeros(1, 1, 2, 8) },
    { enableGqa: false },
  ],
  [
    'key and value of two lengths',
    'ERR_SHAPE',
    { query: zeros(1, 1, 2, 8), key: zeros(1, 1, 3, 8), value: zeros(1, 1, 4, 8) },
  ],
  ['two batch sizes', 'ERR_SHAPE', { query: zeros(2, 1, 2, 8), key: zeros(1, 1, 2, 8), value: zeros(1, 1, 2, 8) }],
  ['two head dims', 'ERR_SHAPE', { query: zeros(1, 1, 2, 8), key: zeros(1, 1, 2, 16), value: zeros(1, 1, 2, 8) }],
  ['data that is detached', 'ERR_BUFFER_DETACHED', all({ ...t, data: detached(16) })],
  ['data that is shared', 'ERR_BUFFER_SHARED', all({ ...t, data: new Float32Array(new SharedArrayBuffer(64)) })],
  ['data that can be resized', 'ERR_BUFFER_RESIZABLE', all({ ...t, data: new Float32Array(resizable(64)) })],
  ['NaN', 'ERR_NONFINITE', all({ ...t, data: new Float32Array(16).fill(Number.NaN) })],
  ['Infinity', 'ERR_NONFINITE', all({ ...t, data: new Float32Array(16).fill(Infinity) })],
  ['scores beyond float32', 'ERR_OVERFLOW', all({ ...t, data: new Float32Array(16).fill(3e38) }), { smoothK: false }],
  ['options null', 'ERR_ARG_TYPE', all(t), null],
  ['options an array', 'ERR_ARG_TYPE', all(t), []],
  ['options a function', 'ERR_ARG_TYPE', all(t), () => {}],
  ['a misspelled option', 'ERR_ARG_RANGE', all(t), { causal: true }],
  ['isCausal 1', 'ERR_ARG_TYPE', all(t), { isCausal: 1 }],
  ['scale NaN', 'ERR_ARG_RANGE', all(t), { scale: Number.NaN }],
  ['scale 0', 'ERR_ARG_RANGE', all(t), { scale: 0 }],
  ['scale -1', 'ERR_ARG_RANGE', all(t), { scale: -1 }],
  ['scale Infinity', 'ERR_ARG_RANGE', all(t), { scale: Infinity }],
  ['scale a string', 'ERR_ARG_TYPE', all(t), { scale: '0.1' }],
  ['softcap -1', 'ERR_ARG_RANGE', all(t), { softcap: -1 }],
  ['precision int9', 'ERR_ARG_RANGE', all(t), { precision: 'int9' }],
  ['tensorLayout BHND', 'ERR_ARG_RANGE', all(t), { tensorLayout: 'BHND' }],
  ['causalAlignment middle', 'ERR_ARG_RANGE', all(t), { causalAlignment: 'middle' }],
  ['windowSize a number', 'ERR_ARG_TYPE', all(t), { windowSize: 4 }],
  ['windowSize of one', 'ERR_ARG_TYPE', all(t), { windowSize: [4] }],
  ['windowSize fractional', 'ERR_ARG_RANGE', all(t), { windowSize: [1.5, 0] }],
  ['windowSize -2', 'ERR_ARG_RANGE', all(t), { windowSize: [-2, 0] }],
  [
    'mask and isCausal',
    'ERR_ARG_RANGE',
    all(t),
    { isCausal: true, attnMask: tensor('bool', new Uint8Array(4), [2, 2]) },
  ],
  ['a mask of the wrong shape', 'ERR_SHAPE', all(t), { attnMask: tensor('bool', new Uint8Array(6), [2, 3]) }],
  ['a mask of int32', 'ERR_ARG_TYPE', all(t), { attnMask: { type: 'int32', dims: [2, 2], data: new Int32Array(4) } }],
  [
    'a mask with NaN',
    'ERR_NONFINITE',
    all(t),
    { attnMask: tensor('float32', new Float32Array(4).fill(Number.NaN), [2, 2]) },
  ],
  [
    'cuSeqlens that fall',
    'ERR_SHAPE',
    all(zeros(4, 1, 8)),
    { tensorLayout: 'NHD', cuSeqlensQ: [0, 3, 2, 4], cuSeqlensK: [0, 1, 2, 4] },
  ],
  [
    'cuSeqlens that end early',
    'ERR_SHAPE',
    all(zeros(4, 1, 8)),
    { tensorLayout: 'NHD', cuSeqlensQ: [0, 3], cuSeqlensK: [0, 4] },
  ],
  [
    'cuSeqlens of two lengths',
    'ERR_SHAPE',
    all(zeros(4, 1, 8)),
    { tensorLayout: 'NHD', cuSeqlensQ: [0, 4], cuSeqlensK: [0, 2, 4] },
  ],
  ['cuSeqlensQ alone', 'ERR_ARG_TYPE', all(zeros(4, 1, 8)), { tensorLayout: 'NHD', cuSeqlensQ: [0, 4] }],
  ['varlen in HND', 'ERR_UNSUPPORTED', all(zeros(4, 1, 8)), { cuSeqlensQ: [0, 4], cuSeqlensK: [0, 4] }],
  [
    'maxSeqlenQ too small',
    'ERR_SHAPE',
    all(zeros(4, 1, 8)),
    { tensorLayout: 'NHD', cuSeqlensQ: [0, 4], cuSeqlensK: [0, 4], maxSeqlenQ: 3 },
  ],
  ['backend tpu', 'ERR_ARG_RANGE', all(t), { backend: 'tpu' }],
  ['backend a number', 'ERR_ARG_TYPE', all(t), { backend: 1 }],
];

describe('refuses', () => {
  it.each(rows)('%s: %s', async (_what, code, inputs, options) => {
    const mixed =
      options === undefined
        ? portable
        : options && typeof options === 'object' && !Array.isArray(options)
          ? { ...portable, ...options }
          : options;
    await expect(intFlashAttention(inputs as never, mixed as never)).rejects.toMatchObject({
      code,
      name: 'IntFlashError',
    });
    expect(() => intFlashAttentionSync(inputs as never, mixed as never)).toThrow(expect.objectContaining({ code }));
  });

  it('options, a backend and a signal that throw when read', async () => {
    const fake = Object.create(AbortSignal.prototype);
    for (const options of [throwing, revoked(), { backend: revoked() }, { signal: fake }, { signal: revoked() }])
      await expect(intFlashAttention(good(), options as never)).rejects.toMatchObject({ code: 'ERR_ARG_TYPE' });
  });

  it('a signal that is none, and any signal in a synchronous call', async () => {
    await expect(intFlashAttention(good(), { ...portable, signal: {} as AbortSignal })).rejects.toMatchObject({
      code: 'ERR_ARG_TYPE',
    });
    const options = { ...portable, signal: AbortSignal.timeout(1000) };
    expect(() => intFlashAttentionSync(good(), options)).toThrow(expect.objectContaining({ code: 'ERR_ARG_RANGE' }));
  });

  it('says which options there are', () => {
    const options = { bakend: 'cpu' } as object;
    expect(() => intFlashAttentionSync(good(), options)).toThrow(
      expect.objectContaining({ hint: expect.stringContaining('backend') }),
    );
  });
});

describe('computes', () => {
  it('the twin’s bits, as tensors', async () => {
    const inputs = good();
    const { out, lse } = await intFlashAttention(inputs, { ...portable, returnLse: true });
    const twin = int8Attention(judgeAttention(inputs, { returnLse: true }));
    expect(out).toEqual({ type: 'float32', dims: [1, 4, 6, 16], data: twin.out });
    expect(lse).toEqual({ type: 'float32', dims: [1, 4, 6], data: twin.lse });
    expect(intFlashAttentionSync(inputs, { ...portable, returnLse: true })).toEqual({ out, lse });
    expect(await intFlashAttention(inputs, portable)).toEqual({ out });
  });

  it('attention, on whatever backend is chosen', async () => {
    const inputs = good();
    const { out } = await intFlashAttention(inputs);
    // 4 · 6 rows of 9 keys: INT8 errs by some 1%; another formula by 100%.
    expect(relativeL2(out.data, softmaxAttention(judgeAttention(inputs)).out)).toBeLessThan(0.03);
  });

  it('with a getter read once', () => {
    let reads = 0;
    const query = good().query;
    const sly = {
      ...query,
      get data() {
        return reads++ === 0 ? query.data : new Float32Array(1);
      },
    };
    expect(intFlashAttentionSync({ ...good(), query: sly }, portable).out).toEqual(
      intFlashAttentionSync(good(), portable).out,
    );
  });

  it('with arrays that say another length', async () => {
    const expected = intFlashAttentionSync(good(), portable);
    const { query, key, value } = good();
    for (const { data } of [query, key, value]) Object.defineProperty(data, 'length', { value: 5 });
    for (const options of [portable, {}]) {
      const { out } = await intFlashAttention({ query, key, value }, options);
      expect(relativeL2(out.data, expected.out.data)).toBeLessThan(1e-6); // a float32 rounding apart at most
    }
    expect(intFlashAttentionSync({ query, key, value }, portable)).toEqual(expected);
  });

  it('on codes', async () => {
    const { query, key, value } = good();
    const [q, k, v] = [query, key, value].map((x) => quantizePerTokenInt8(x.data, 16)) as [
      ReturnType<typeof quantizePerTokenInt8>,
      ReturnType<typeof quantizePerTokenInt8>,
      ReturnType<typeof quantizePerTokenInt8>,
    ];
    const inputs = {
      q: tensor('int8', q.values, query.dims),
      k: tensor('int8', k.values, key.dims),
      v: tensor('int8', v.values, value.dims),
      qScale: tensor('float32', q.scales, [1, 4, 6]),
      kScale: tensor('float32', k.scales, [1, 2, 9]),
      vScale: tensor('float32', v.scales, [1, 2, 9]),
    };
    const { out } = await intFlashAttentionQuantized(inputs, portable);
    expect(out.dims).toEqual([1, 4, 6, 16]);
    expect(relativeL2(out.data, softmaxAttention(judgeAttention(good())).out)).toBeLessThan(0.03);
    expect(intFlashAttentionQuantizedSync(inputs, portable).out).toEqual(out);
    const zero = { ...inputs, kScale: zeros(1, 2, 9) };
    await expect(intFlashAttentionQuantized(zero, portable)).rejects.toMatchObject({ code: 'ERR_ARG_RANGE' });
    expect(() => intFlashAttentionQuantizedSync(inputs, { ...portable, smoothK: true } as object)).toThrow(
      /known keys/,
    );
  });
});

describe('asynchronously', () => {
  it('does not see what happens to the inputs later', async () => {
    const inputs = good();
    const expected = intFlashAttentionSync(inputs, portable);
    const pending = intFlashAttention(inputs, portable);
    for (const operand of [inputs.query, inputs.key, inputs.value]) operand.data.fill(Number.NaN);
    expect(await pending).toEqual(expected);
  });

  it('rejects with the signal’s reason, before and after the start', async () => {
    const reason = new Error('enough');
    await expect(intFlashAttention(good(), { ...portable, signal: AbortSignal.abort(reason) })).rejects.toBe(reason);
    const controller = new AbortController();
    const pending = intFlashAttention(good(), { ...portable, signal: controller.signal });
    controller.abort(reason);
    await expect(pending).rejects.toBe(reason);
    await expect(intFlashAttention(good(), { ...portable, signal: AbortSignal.abort() })).rejects.toMatchObject({
      name: 'AbortError',
    });
  });
});
