import { describe, expect, it } from 'vitest';
import {
  ATTENTION_OPTION_KEYS,
  type ErrorCode,
  IntFlashError,
  judgeAttention,
  judgeHalfQuantizedAttention,
  judgeQuantizedAttention,
} from '../src/index.js';
import { oddValues } from './bad-arguments.js';
import { codeInputs, float, halfInputs, ones } from './code-inputs.js';

const floatInputs = () => ({ query: float([1, 2, 3, 8]), key: float([1, 2, 4, 8]), value: float([1, 2, 4, 8]) });

function caught(call: () => unknown): unknown {
  try {
    call();
  } catch (error) {
    return error;
  }
  return undefined;
}

function code(call: () => unknown): ErrorCode | 'accepted' | 'untyped' {
  const error = caught(call);
  if (error === undefined) return 'accepted';
  return IntFlashError.isInstance(error) ? error.code : 'untyped';
}

describe('the type matrix: every odd value in every position', () => {
  const judges = [
    { name: 'judgeAttention', judge: judgeAttention, inputs: floatInputs as () => Record<string, object> },
    {
      name: 'judgeQuantizedAttention',
      judge: judgeQuantizedAttention,
      inputs: codeInputs as () => Record<string, object>,
    },
    {
      name: 'judgeHalfQuantizedAttention',
      judge: judgeHalfQuantizedAttention,
      inputs: halfInputs as () => Record<string, object>,
    },
  ];
  const calls = judges.flatMap(({ name, judge, inputs }) => {
    const values = Object.entries(oddValues());
    const places: [string, (value: unknown) => () => unknown][] = [
      ['inputs', (value) => () => judge(value)],
      ['options', (value) => () => judge(inputs(), value)],
      ...Object.keys(inputs()).map((operand): [string, (value: unknown) => () => unknown] => [
        operand,
        (value) => () => judge({ ...inputs(), [operand]: value }),
      ]),
      ...Object.keys(inputs()).flatMap((operand) =>
        ['type', 'dims', 'data', 'strides'].map((field): [string, (value: unknown) => () => unknown] => [
          `${operand}.${field}`,
          (value) => () => judge({ ...inputs(), [operand]: { ...inputs()[operand], [field]: value } }),
        ]),
      ),
      ...ATTENTION_OPTION_KEYS.map((option): [string, (value: unknown) => () => unknown] => [
        `options.${option}`,
        (value) => () => judge(inputs(), { [option]: value }),
      ]),
    ];
    return places.flatMap(([place, call]) =>
      values.map(([label, value]) => ({ title: `${name}: ${place} = ${label}`, place, label, call: call(value) })),
    );
  });

  // What is a legal value where it stands.
  const legal = (place: string, label: string): boolean => {
    if (label === 'undefined') return /^options|strides$|vChannelScale$/.test(place);
    if (place === 'options') return label === 'object' || label === 'object without prototype';
    if (/\.(isCausal|enableGqa|returnLse|smoothK)$/.test(place)) return label === 'true';
    if (place === 'options.softcap') return label === 'zero' || label === 'fraction';
    if (place === 'options.scale') return label === 'fraction';
    if (/\.type$/.test(place)) return label === 'string' && /Scale/.test(place);
    return false;
  };

  it(`holds for ${calls.length} calls (at least 300 for each judge)`, () => {
    expect(calls.length).toBeGreaterThan(900);
    const surprises = calls
      .map(({ title, place, label, call }) => ({ title, place, label, result: code(call) }))
      .filter(({ place, label, result }) => result === 'untyped' || (result === 'accepted') !== legal(place, label))
      // smoothK is no option of the pre-quantized entries, whose K is given as it is.
      .filter(
        ({ title, result }) => !(/QuantizedAttention: options\.smoothK/.test(title) && result === 'ERR_ARG_RANGE'),
      )
      // A type is legal for 16-bit floats only with bits; "float32" is what the float inputs have already.
      .filter(
        ({ title, result }) =>
          !(/^judge(Attention: \w+|Half\w+: v)\.type = string$/.test(title) && result === 'accepted'),
      );
    expect(surprises).toEqual([]);
  });

  it('says "Expected …, got …" and nothing about memory or files', () => {
    const messages = calls
      .map(({ call }) => caught(call))
      .filter((error): error is IntFlashError => IntFlashError.isInstance(error))
      .map((error) => error.message);
    expect(messages.filter((message) => !/^Expected .*, got /s.test(message))).toEqual([]);
    expect(messages.filter((message) => /0x[0-9a-f]{6}|\/home|node_modules|\.ts\b/.test(message))).toEqual([]);
    expect(messages.filter((message) => message.length > 600)).toEqual([]);
  });
});

const attention = (change: object, options?: object) => () => judgeAttention({ ...floatInputs(), ...change }, options);

describe('the bad-input table: shapes', () => {
  const withDim = (dim: number) => ({
    query: float([1, 2, 3, dim]),
    key: float([1, 2, 4, dim]),
    value: float([1, 2, 4, dim]),
  });
  it.each<[string, () => unknown, ErrorCode]>([
    ['headDim 0', attention(withDim(0)), 'ERR_SHAPE'],
    ['headDim 257', attention(withDim(257)), 'ERR_UNSUPPORTED'],
    ['headDim 65', attention(withDim(65)), 'ERR_UNSUPPORTED'],
    ['headDim 264', attention(withDim(264)), 'ERR_UNSUPPORTED'],
    ['heads not divisible by kvHeads', attention({ query: float([1, 3, 3, 8]) }), 'ERR_SHAPE'],
    ['fewer query heads', attention({ query: float([1, 1, 3, 8]) }), 'ERR_SHAPE'],
    [
      'no heads',
      attention({ query: float([1, 0, 3, 8]), key: float([1, 0, 4, 8]), value: float([1, 0, 4, 8]) }),
      'ERR_SHAPE',
    ],
    ['GQA switched off', attention({ query: float([1, 4, 3, 8]) }, { enableGqa: false }), 'ERR_SHAPE'],
    [
      'data too short',
      attention({ query: { type: 'float32', dims: [1, 2, 3, 8], data: new Float32Array(47) } }),
      'ERR_SHAPE',
    ],
    [
      'data too long',
      attention({ query: { type: 'float32', dims: [1, 2, 3, 8], data: new Float32Array(49) } }),
      'ERR_SHAPE',
    ],
    ['key batch', attention({ key: float([2, 2, 4, 8]) }), 'ERR_SHAPE'],
    ['key headDim', attention({ key: float([1, 2, 4, 16]) }), 'ERR_SHAPE'],
    ['value tokens', attention({ value: float([1, 2, 5, 8]) }), 'ERR_SHAPE'],
    ['value heads', attention({ value: float([1, 1, 4, 8]) }), 'ERR_SHAPE'],
    ['rank 2', attention({ query: float([3, 8]) }), 'ERR_SHAPE'],
    ['rank 5', attention({ query: float([1, 1, 2, 3, 8]) }), 'ERR_SHAPE'],
    ['rank 9', attention({ query: float([1, 1, 1, 1, 1, 1, 2, 3, 8]) }), 'ERR_SHAPE'],
    ['mixed ranks', attention({ key: float([2, 4, 8]) }), 'ERR_SHAPE'],
    [
      'dims beyond 2^53',
      attention({ query: { type: 'float32', dims: [2 ** 30, 2 ** 30, 3, 8], data: new Float32Array(8) } }),
      'ERR_OVERFLOW',
    ],
    [
      'dims beyond the buffer',
      attention({ query: { type: 'float32', dims: [2 ** 20, 2 ** 10, 3, 8], data: new Float32Array(8) } }),
      'ERR_SHAPE',
    ],
    [
      'strides beyond 2^53',
      attention({ query: { ...float([1, 2, 3, 8]), strides: [1, 2 ** 53, 8, 1] } }),
      'ERR_OVERFLOW',
    ],
    [
      'strides beyond the buffer',
      attention({ query: { ...float([1, 2, 3, 8]), strides: [48, 25, 8, 1] } }),
      'ERR_SHAPE',
    ],
    ['strides of another rank', attention({ query: { ...float([1, 2, 3, 8]), strides: [24, 8, 1] } }), 'ERR_SHAPE'],
    ['negative stride', attention({ query: { ...float([1, 2, 3, 8]), strides: [48, 24, -8, 1] } }), 'ERR_ARG_RANGE'],
    [
      'strided head dimension',
      attention({
        query: { type: 'float32', dims: [1, 1, 2, 8], data: new Float32Array(32), strides: [32, 32, 16, 2] },
        key: float([1, 1, 4, 8]),
        value: float([1, 1, 4, 8]),
      }),
      'ERR_UNSUPPORTED',
    ],
    // A zero stride makes eight numbers stand for any number of rows.
    [
      '2^43 output elements',
      attention({
        query: { type: 'float32', dims: [1, 2 ** 20, 2 ** 20, 8], strides: [0, 0, 0, 1], data: new Float32Array(8) },
      }),
      'ERR_OVERFLOW',
    ],
    [
      '2^40 empty sequences',
      attention({
        query: { type: 'float32', dims: [2 ** 40, 1, 0, 8], data: new Float32Array(0) },
        key: { type: 'float32', dims: [2 ** 40, 1, 0, 8], data: new Float32Array(0) },
        value: { type: 'float32', dims: [2 ** 40, 1, 0, 8], data: new Float32Array(0) },
      }),
      'ERR_OVERFLOW',
    ],
  ])('%s', (_, call, expected) => {
    expect(code(call)).toBe(expected);
  });

  it.each([-1, Number.NaN, 1.5, '3', null, 2n, Infinity])('dims with %s', (dim) => {
    expect(code(attention({ query: { type: 'float32', dims: [1, 2, dim, 8], data: new Float32Array(48) } }))).toBe(
      'ERR_ARG_RANGE',
    );
  });
});

describe('the bad-input table: options', () => {
  it.each<[string, object, ErrorCode]>([
    ...[Number.NaN, 0, -1, Infinity, -Infinity, 1e-45, 1e38].map((scale): [string, object, ErrorCode] => [
      `scale ${scale}`,
      { scale },
      'ERR_ARG_RANGE',
    ]),
    ...[Number.NaN, -1, Infinity].map((softcap): [string, object, ErrorCode] => [
      `softcap ${softcap}`,
      { softcap },
      'ERR_ARG_RANGE',
    ]),
    ['a misspelled option', { iscausal: true }, 'ERR_ARG_RANGE'],
    ['an unknown precision', { precision: 'int2' }, 'ERR_ARG_RANGE'],
    ['an unknown layout', { tensorLayout: 'DNH' }, 'ERR_ARG_RANGE'],
    ['an unknown alignment', { causalAlignment: 'left' }, 'ERR_ARG_RANGE'],
    ['a window of one', { windowSize: [1] }, 'ERR_ARG_TYPE'],
    ['a window of -2', { windowSize: [-2, 0] }, 'ERR_ARG_RANGE'],
    ['a fractional window', { windowSize: [1.5, 0] }, 'ERR_ARG_RANGE'],
    // biome-ignore lint/suspicious/noSparseArray: the hole is the point
    ['a window with a hole', { windowSize: [, 0] }, 'ERR_ARG_TYPE'],
    [
      'mask and isCausal',
      { isCausal: true, attnMask: { type: 'bool', dims: [3, 4], data: new Uint8Array(12) } },
      'ERR_ARG_RANGE',
    ],
    ['a mask of another shape', { attnMask: { type: 'bool', dims: [4, 3], data: new Uint8Array(12) } }, 'ERR_SHAPE'],
    ['a mask of rank 1', { attnMask: { type: 'bool', dims: [4], data: new Uint8Array(4) } }, 'ERR_SHAPE'],
    ['an integer mask', { attnMask: { type: 'int32', dims: [3, 4], data: new Int32Array(12) } }, 'ERR_ARG_TYPE'],
    [
      'a mask with NaN',
      { attnMask: { type: 'float32', dims: [3, 4], data: new Float32Array(12).fill(Number.NaN) } },
      'ERR_NONFINITE',
    ],
    [
      'a mask with +Infinity',
      { attnMask: { type: 'float32', dims: [3, 4], data: new Float32Array(12).fill(Infinity) } },
      'ERR_NONFINITE',
    ],
    ['maxSeqlenQ without cuSeqlens', { maxSeqlenQ: 3 }, 'ERR_ARG_RANGE'],
  ])('%s', (_, options, expected) => {
    expect(code(attention({}, options))).toBe(expected);
  });

  it('rounds scale and softcap to float32, as the kernels take them', () => {
    const plan = judgeAttention(floatInputs(), { scale: 0.1, softcap: 0.3 });
    expect([plan.scale, plan.softcap]).toEqual([Math.fround(0.1), Math.fround(0.3)]);
    expect(judgeAttention(floatInputs(), { softcap: 1e-60 }).softcap).toBe(0);
  });

  it('gives ERR_ARG_TYPE and ERR_ARG_RANGE the classes Node gives them', () => {
    expect(caught(attention({}, { scale: 'x' }))).toBeInstanceOf(TypeError);
    expect(caught(attention({}, { scale: -1 }))).toBeInstanceOf(RangeError);
  });
});

describe('the bad-input table: buffers', () => {
  const operands = ['query', 'key', 'value'] as const;
  const dims = { query: [1, 2, 3, 8], key: [1, 2, 4, 8], value: [1, 2, 4, 8] };
  const bytes = { query: 192, key: 256, value: 256 };

  it.each(operands)('%s detached, shared, resizable', (operand) => {
    const detached = new Float32Array(bytes[operand] / 4);
    structuredClone(detached, { transfer: [detached.buffer] });
    const shared = new Float32Array(new SharedArrayBuffer(bytes[operand]));
    const resizable = new Float32Array(
      new (ArrayBuffer as unknown as new (length: number, options: object) => ArrayBuffer)(bytes[operand], {
        maxByteLength: 4096,
      }),
    );
    const judged = (data: Float32Array) =>
      code(attention({ [operand]: { type: 'float32', dims: dims[operand], data } }));
    expect([detached, shared, resizable].map(judged)).toEqual([
      'ERR_BUFFER_DETACHED',
      'ERR_BUFFER_SHARED',
      'ERR_BUFFER_RESIZABLE',
    ]);
  });

  it('cuSeqlens in a shared buffer', () => {
    const cu = new Int32Array(new SharedArrayBuffer(8));
    expect(
      code(() =>
        judgeAttention(
          { query: float([0, 2, 8]), key: float([0, 2, 8]), value: float([0, 2, 8]) },
          { tensorLayout: 'NHD', cuSeqlensQ: cu, cuSeqlensK: cu },
        ),
      ),
    ).toBe('ERR_BUFFER_SHARED');
  });
});

describe('the bad-input table: varlen', () => {
  const varlen = (options: object) => () =>
    judgeAttention(
      { query: float([5, 2, 8]), key: float([7, 2, 8]), value: float([7, 2, 8]) },
      { tensorLayout: 'NHD', cuSeqlensQ: [0, 2, 5], cuSeqlensK: [0, 3, 7], ...options },
    );

  it.each<[string, object, ErrorCode]>([
    ['falls', { cuSeqlensQ: [0, 4, 2, 5], cuSeqlensK: [0, 3, 5, 7] }, 'ERR_SHAPE'],
    ['ends short of the total', { cuSeqlensQ: [0, 2, 4] }, 'ERR_SHAPE'],
    ['ends beyond the total', { cuSeqlensK: [0, 3, 8] }, 'ERR_SHAPE'],
    ['starts at 1', { cuSeqlensQ: [1, 2, 5] }, 'ERR_SHAPE'],
    ['has one entry', { cuSeqlensQ: [0] }, 'ERR_SHAPE'],
    ['has another number of sequences', { cuSeqlensK: [0, 7] }, 'ERR_SHAPE'],
    ['has a negative entry', { cuSeqlensQ: [0, -1, 5] }, 'ERR_ARG_RANGE'],
    ['has a fraction', { cuSeqlensQ: [0, 1.5, 5] }, 'ERR_ARG_RANGE'],
    ['has a hole', { cuSeqlensQ: [0, undefined, 5] }, 'ERR_ARG_TYPE'],
    ['is missing', { cuSeqlensK: undefined }, 'ERR_ARG_TYPE'],
    ['is a Float32Array', { cuSeqlensQ: Float32Array.of(0, 2, 5) }, 'ERR_ARG_TYPE'],
    ['maxSeqlenQ too small', { maxSeqlenQ: 2 }, 'ERR_SHAPE'],
    ['layout HND', { tensorLayout: 'HND' }, 'ERR_UNSUPPORTED'],
    ['with a mask', { attnMask: { type: 'bool', dims: [5, 7], data: new Uint8Array(35) } }, 'ERR_UNSUPPORTED'],
  ])('cuSeqlens: %s', (_, options, expected) => {
    expect(code(varlen(options))).toBe(expected);
  });

  it('works exactly at the limits, empty sequences included', () => {
    const plan = varlen({ cuSeqlensQ: Int32Array.of(0, 0, 5), cuSeqlensK: [0, 7, 7], maxSeqlenQ: 5, maxSeqlenK: 7 })();
    expect(plan.sequences).toEqual([
      { qStart: 0, qLen: 0, kStart: 0, kLen: 7 },
      { qStart: 0, qLen: 5, kStart: 7, kLen: 0 },
    ]);
  });
});

describe('the pre-quantized entry', () => {
  const quantized = (change: object, options?: object) => () =>
    judgeQuantizedAttention({ ...codeInputs(), ...change }, options);

  it.each([0, -1, Number.NaN, Infinity, -Infinity])(
    'rejects a scale of %s in any operand, naming the element',
    (bad) => {
      for (const operand of ['qScale', 'kScale', 'vScale', 'vChannelScale'] as const) {
        const scale = codeInputs()[operand];
        scale.data[5] = bad;
        expect(caught(quantized({ [operand]: scale }))).toMatchObject({
          code: 'ERR_ARG_RANGE',
          message: expect.stringContaining('element 5'),
        });
      }
    },
  );

  it.each<[string, object, object, ErrorCode]>([
    ['float q', { q: float([1, 2, 3, 8]) }, {}, 'ERR_ARG_TYPE'],
    ['qScale per head', { qScale: ones([1, 2]) }, {}, 'ERR_SHAPE'],
    ['kScale of the queries’ length', { kScale: ones([1, 2, 3]) }, {}, 'ERR_SHAPE'],
    ['vChannelScale of another width', { vChannelScale: ones([1, 2, 16]) }, {}, 'ERR_SHAPE'],
    ['token-level vScale for paper-int8', {}, { precision: 'paper-int8' }, 'ERR_SHAPE'],
    ['half-int8', {}, { precision: 'half-int8' }, 'ERR_ARG_RANGE'],
    ['smoothK', {}, { smoothK: true }, 'ERR_ARG_RANGE'],
  ])('rejects %s', (_, change, options, expected) => {
    expect(code(quantized(change, options))).toBe(expected);
  });

  it('addresses scales per token or per head', () => {
    expect(quantized({})().valueScale.strides).toEqual({ batch: 8, head: 4, token: 1 });
    expect(quantized({ vScale: ones([1, 2]) }, { precision: 'paper-int8' })().valueScale.strides).toEqual({
      batch: 2,
      head: 1,
      token: 0,
    });
    expect(quantized({ vChannelScale: undefined })().valueChannelScale).toBeUndefined();
  });
});
