import { IntFlashError } from '@int-flash/ops';
import { describe, expect, it } from 'vitest';
import * as quant from '../src/index.js';

// Types are what a JavaScript caller does not have.
type Call = (...values: unknown[]) => unknown;
const q = quant as unknown as Record<string, Call> & typeof quant;
const call = (name: string) => (quant as unknown as Record<string, Call>)[name]!;

const rows = () => new Float32Array(8).fill(1);
const codes = () => new Int8Array(8).fill(1);
const ones = (length: number) => new Float32Array(length).fill(1);

const byName = {
  dequantizePerTokenInt8: [{ values: codes(), scales: ones(2) }, 4],
  dequantizePerTokenInt4: [{ packed: new Uint8Array(4), scales: ones(2) }, 4],
  dequantizePerChannelInt8: [{ values: codes(), scales: ones(4) }],
  dequantizePerTensorInt8: [{ values: codes(), scale: 1 }],
  dequantizePerBlockInt8: [{ values: codes(), scales: ones(1), blockTokens: 2 }, 4],
  dequantizePerGroupInt4: [{ packed: new Uint8Array(16), scales: ones(1), group: 32 }],
  dequantizeTokenLevelV: [{ values: codes(), tokenWeights: ones(2), channelScales: ones(4) }],
  dequantizeAsymmetricGroups: [
    { bits: 8, tokens: 2, channels: 4, codes: new Uint8Array(8), count: 8, scales: ones(1), minima: ones(1) },
    4,
  ],
  dequantizeKv: [
    {
      format: 'int8-per-token',
      dim: 4,
      keys: { values: codes(), scales: ones(2) },
      values: { values: codes(), scales: ones(2) },
    },
  ],
  widenInt4Linear: [{ type: 'int4', rows: 1, cols: 32, packed: new Uint8Array(16), scales: ones(1), group: 32 }],
} satisfies Record<string, [Record<string, unknown>, ...unknown[]]>;
const dequantizers = Object.entries(byName).map(([name, [given, ...rest]]) => ({ name, given, rest }));

const quantizers: { name: string; rest: unknown[] }[] = [
  { name: 'quantizePerTokenInt8', rest: [4] },
  { name: 'quantizePerTokenInt4', rest: [4] },
  { name: 'encodePerTokenInt4', rest: [4] },
  { name: 'quantizePerChannelInt8', rest: [4] },
  { name: 'quantizePerTensorInt8', rest: [] },
  { name: 'quantizePerBlockInt8', rest: [4] },
  { name: 'quantizePerGroupInt4', rest: [32, 32] },
  { name: 'quantizeTokenLevelV', rest: [4] },
  { name: 'quantizeAsymmetricGroups', rest: [4, { bits: 8, tokens: 1, channels: 1 }] },
  { name: 'smoothK', rest: [4] },
  { name: 'hadamardRotate', rest: [4] },
  { name: 'calibrateInt8', rest: [] },
  { name: 'readFloatInput', rest: [] },
];
const rowsOfDim = quantizers.filter(({ rest }) => typeof rest[0] === 'number');

function detached<T extends ArrayBufferView>(view: T): T {
  structuredClone(view.buffer, { transfer: [view.buffer as ArrayBuffer] });
  return view;
}
const resizable = () => Reflect.construct(ArrayBuffer, [128, { maxByteLength: 256 }]) as ArrayBuffer;
const revoked = () => {
  const { proxy, revoke } = Proxy.revocable({}, {});
  revoke();
  return proxy;
};
const throwing = () =>
  new Proxy(
    {},
    {
      get: () => {
        throw new Error('trap');
      },
    },
  );

function refused(run: () => unknown, code: string, message = 'Expected '): void {
  expect(run).toThrow(IntFlashError);
  expect(run).toThrow(expect.objectContaining({ code, message: expect.stringContaining(message) }));
}

const wrongObjects = (): unknown[] => [undefined, null, 5, 'x', Symbol('x'), 10n, [1, 2], {}, revoked(), throwing()];
const wrongNumbers = (): unknown[] => [undefined, null, '4', Symbol('x'), 10n, {}, revoked(), throwing()];

describe.each(quantizers)('$name', ({ name, rest }) => {
  const run = (input: unknown) => call(name)(input, ...rest);

  it('refuses memory that is gone, shared or resizable', () => {
    refused(() => run(detached(new Float32Array(32))), 'ERR_BUFFER_DETACHED', 'input');
    refused(() => run(new Float32Array(new SharedArrayBuffer(128))), 'ERR_BUFFER_SHARED', 'input');
    refused(() => run(new Float32Array(resizable())), 'ERR_BUFFER_RESIZABLE', 'input');
    refused(() => run({ type: 'float16', data: detached(new Uint16Array(32)) }), 'ERR_BUFFER_DETACHED', 'input.data');
    const shared = new Float32Array(new SharedArrayBuffer(128));
    refused(() => run({ type: 'float32', data: shared }), 'ERR_BUFFER_SHARED', 'input.data');
  });

  it('refuses what only looks like an array', () => {
    for (const input of [
      ...wrongObjects(),
      Object.create(Float32Array.prototype),
      new Proxy(new Float32Array(32), {}),
      Object.defineProperty(new Float64Array(32), Symbol.toStringTag, { value: 'Float32Array' }),
      { type: 'float32', data: new Proxy(new Float32Array(32), {}) },
    ])
      refused(() => run(input), 'ERR_ARG_TYPE');
  });
});

describe.each([...rowsOfDim, { name: 'quantizeKv', rest: [] }])('the row length of $name', ({ name, rest }) => {
  const run = (input: unknown, dim: unknown) =>
    name === 'quantizeKv'
      ? q.quantizeKv('kivi-int4', input as never, input as never, dim as never)
      : call(name)(input, dim, ...rest.slice(1));

  it('is a positive integer', () => {
    for (const dim of [0, -4, 1.5, Number.NaN, Infinity, 2 ** 53])
      refused(() => run(new Float32Array(0), dim), 'ERR_SHAPE', 'dim');
    for (const dim of wrongNumbers()) refused(() => run(rows(), dim), 'ERR_ARG_TYPE');
  });
});

describe.each(dequantizers)('$name', ({ name, given, rest }) => {
  const run = (fields: object) => call(name)({ ...given, ...fields }, ...rest);

  it('takes what it should', () => {
    expect(() => run({})).not.toThrow();
  });

  it('refuses anything else than codes and scales', () => {
    for (const value of wrongObjects()) refused(() => call(name)(value, ...rest), 'ERR_ARG_TYPE');
  });

  it('names a field of another type', () => {
    for (const [field, value] of Object.entries(given)) {
      if (typeof value === 'string' || (name === 'widenInt4Linear' && typeof value === 'number' && field !== 'group'))
        continue;
      for (const wrong of [undefined, null, 'x', Symbol('x'), 10n, [1, 2, 3]])
        refused(() => run({ [field]: wrong }), 'ERR_ARG_TYPE', field);
      refused(() => run({ [field]: revoked() }), 'ERR_ARG_TYPE');
    }
  });

  it('refuses memory that is gone, shared or resizable', () => {
    for (const [field, value] of Object.entries(given)) {
      if (!ArrayBuffer.isView(value)) continue;
      const Kind = value.constructor as new (from: unknown) => ArrayBufferView;
      refused(() => run({ [field]: detached(new Kind(value)) }), 'ERR_BUFFER_DETACHED', field);
      refused(() => run({ [field]: new Kind(new SharedArrayBuffer(128)) }), 'ERR_BUFFER_SHARED', field);
      refused(() => run({ [field]: new Kind(resizable()) }), 'ERR_BUFFER_RESIZABLE', field);
    }
  });

  it('refuses arrays that do not fit each other', () => {
    for (const [field, value] of Object.entries(given)) {
      if (!ArrayBuffer.isView(value) || name === 'dequantizePerTensorInt8') continue;
      const { length } = value as Int8Array;
      const Kind = value.constructor as new (length: number) => ArrayBufferView;
      for (const other of [length + 1, length - 1]) {
        if (field === 'scales' && name === 'dequantizePerChannelInt8' && length % other === 0) continue;
        refused(() => run({ [field]: new Kind(other) }), 'ERR_SHAPE');
      }
    }
  });

  it('refuses a row length that does not fit', () => {
    if (rest.length === 0) return;
    // 2 tokens of 4 in one group are as many groups as 4 of 2 or 1 of 8 are where a group spans them
    for (const dim of [0, -4, 2, 8, 3, 1.5, Number.NaN, Infinity, 2 ** 53]) {
      if (name === 'dequantizePerBlockInt8' && dim === 8) continue; // one token of 8 is one block, as two of 4 are
      refused(() => call(name)(given, dim), 'ERR_SHAPE');
    }
    for (const dim of wrongNumbers()) refused(() => call(name)(given, dim), 'ERR_ARG_TYPE');
  });
});

describe('the numbers beside codes', () => {
  it('are what the quantizers give', () => {
    const { given: block } = dequantizers.find(({ name }) => name === 'dequantizePerBlockInt8')!;
    for (const blockTokens of [0, -1, 1.5, Number.NaN, Infinity])
      refused(() => call('dequantizePerBlockInt8')({ ...block, blockTokens }, 4), 'ERR_ARG_RANGE', 'blockTokens');
    const { given: group } = dequantizers.find(({ name }) => name === 'dequantizePerGroupInt4')!;
    for (const wrong of [7, 0, Number.NaN])
      refused(() => call('dequantizePerGroupInt4')({ ...group, group: wrong }), 'ERR_ARG_RANGE', 'group');
    for (const scale of [0, -1, Number.NaN, Infinity])
      refused(() => call('dequantizePerTensorInt8')({ values: codes(), scale }), 'ERR_ARG_RANGE', 'scale');
    const { given: kivi } = dequantizers.find(({ name }) => name === 'dequantizeAsymmetricGroups')!;
    for (const field of ['bits', 'tokens', 'channels', 'count'])
      for (const wrong of [-1, 1.5, Number.NaN, Infinity])
        refused(() => call('dequantizeAsymmetricGroups')({ ...kivi, [field]: wrong }, 4), 'ERR_ARG_RANGE', field);
  });

  it.each([0, 6, 2 ** 32 + 8, 2 ** 33 + 8])('4-bit codes of another count, %s, are refused', (count) => {
    refused(() => q.unpackInt4(new Uint8Array(4), count), 'ERR_SHAPE', `count ${count}`);
  });
});

describe('arrays that say another length', () => {
  const saying = <T extends object>(array: T, length: number): T =>
    Object.defineProperty(array, 'length', { value: length });

  it.each(quantizers)('$name takes them as they are', ({ name, rest }) => {
    const values = Float32Array.from({ length: 32 }, (_, i) => i - 7);
    const expected = call(name)(values, ...rest);
    for (const length of [4, 64]) {
      expect(call(name)(saying(values.slice(), length), ...rest)).toEqual(expected);
      expect(call(name)({ type: 'float32', data: saying(values.slice(), length) }, ...rest)).toEqual(expected);
    }
  });

  it.each(dequantizers.filter(({ name }) => name !== 'dequantizeKv'))('$name takes them as they are', (row) => {
    const { name, given, rest } = row;
    const expected = call(name)(given, ...rest);
    for (const [field, value] of Object.entries(given)) {
      if (!ArrayBuffer.isView(value)) continue;
      const copy = (value as Float32Array).slice();
      expect(call(name)({ ...given, [field]: saying(copy, 2 * copy.length) }, ...rest)).toEqual(expected);
    }
  });

  it('packInt4, unpackInt4 and an out of dequantizePerGroupInt4 too', () => {
    expect(q.packInt4(saying(codes(), 4))).toEqual(q.packInt4(codes()));
    expect(q.unpackInt4(saying(new Uint8Array(4), 2))).toEqual(new Int8Array(8));
    const [given] = byName.dequantizePerGroupInt4;
    refused(() => call('dequantizePerGroupInt4')(given, saying(new Float32Array(16), 32)), 'ERR_SHAPE', 'out');
    const out = saying(new Float32Array(32).fill(1), 16);
    expect(call('dequantizePerGroupInt4')(given, out)).toBe(out);
    expect(out[31]).toBe(0);
  });
});

describe('packInt4, unpackInt4', () => {
  it('take codes one a byte, and two', () => {
    for (const wrong of [...wrongObjects(), Float32Array.of(1.5, Number.NaN), new Uint8Array(4)])
      refused(() => call('packInt4')(wrong), 'ERR_ARG_TYPE');
    for (const wrong of [...wrongObjects(), new Int8Array(4)]) refused(() => call('unpackInt4')(wrong), 'ERR_ARG_TYPE');
    for (const wrong of [null, '8', Symbol('x'), 8n, {}, revoked()])
      refused(() => call('unpackInt4')(new Uint8Array(4), wrong), 'ERR_ARG_TYPE');
  });

  it('refuse memory that is gone or shared', () => {
    refused(() => q.packInt4(detached(new Int8Array(8))), 'ERR_BUFFER_DETACHED', 'codes');
    refused(() => q.packInt4(new Int8Array(new SharedArrayBuffer(8))), 'ERR_BUFFER_SHARED', 'codes');
    refused(() => q.unpackInt4(detached(new Uint8Array(8))), 'ERR_BUFFER_DETACHED', 'packed');
    refused(() => q.unpackInt4(new Uint8Array(resizable())), 'ERR_BUFFER_RESIZABLE', 'packed');
  });
});

describe('quantizePerTensorInt8', () => {
  it('takes a range that float32 has', () => {
    for (const range of [Number.NaN, -1, Infinity, 1e39])
      refused(() => q.quantizePerTensorInt8(rows(), range), 'ERR_ARG_RANGE', 'range');
    for (const range of [null, 'x', {}, 1n])
      refused(() => call('quantizePerTensorInt8')(rows(), range), 'ERR_ARG_TYPE');
  });

  it('takes what calibrateInt8 gives for zeros', () => {
    const zeros = new Float32Array(4);
    expect(q.quantizePerTensorInt8(zeros, q.calibrateInt8(zeros).range)).toEqual(q.quantizePerTensorInt8(zeros));
  });
});

describe('dequantizePerGroupInt4', () => {
  it('wants room for every number', () => {
    const [given] = byName.dequantizePerGroupInt4;
    const run = (out: unknown) => () => call('dequantizePerGroupInt4')(given, out);
    refused(run(new Float32Array(31)), 'ERR_SHAPE', 'out');
    for (const out of [null, 'x', [], {}, new Float64Array(32), new Proxy(new Float32Array(32), {})])
      refused(run(out), 'ERR_ARG_TYPE', 'out');
    refused(run(detached(new Float32Array(32))), 'ERR_BUFFER_DETACHED', 'out');
    const longer = new Float32Array(40);
    expect(run(longer)()).toBe(longer);
    const memory = new ArrayBuffer(256);
    const lying = { packed: new Uint8Array(memory, 16, 16), scales: new Float32Array(memory, 128, 1), group: 32 };
    for (const [at, count] of [
      [0, 32],
      [28, 32],
      [128, 32],
    ] as const)
      refused(() => call('dequantizePerGroupInt4')(lying, new Float32Array(memory, at, count)), 'ERR_ARG_RANGE', 'out');
    const beside = { ...lying, scales: new Float32Array(memory, 32, 1) };
    expect(call('dequantizePerGroupInt4')(beside, new Float32Array(memory, 36, 32))).toHaveLength(32);
  });
});

describe('quantizeKv, dequantizeKv', () => {
  it('want a format of the list', () => {
    for (const format of wrongNumbers().filter((x) => x !== '4'))
      refused(() => call('quantizeKv')(format, rows(), rows(), 4), 'ERR_ARG_TYPE');
    refused(() => call('quantizeKv')('nope', rows(), rows(), 4), 'ERR_ARG_RANGE', 'format');
    const [given] = byName.dequantizeKv;
    for (const format of wrongNumbers().filter((x) => x !== '4'))
      refused(() => call('dequantizeKv')({ ...given, format }), 'ERR_ARG_TYPE');
    refused(() => call('dequantizeKv')({ ...given, format: 'nope' }), 'ERR_ARG_RANGE', 'format');
  });

  it.each(quant.KV_CACHE_FORMATS)('want keys and values of one shape, %s', (format) => {
    const long = q.quantizeKv(format, rows(), rows(), 4);
    const short = q.quantizeKv(format, rows().subarray(4), rows().subarray(4), 4);
    refused(() => call('dequantizeKv')({ ...long, values: short.values }), 'ERR_SHAPE');
    for (const dim of [0, 3, Number.NaN]) refused(() => call('dequantizeKv')({ ...long, dim }), 'ERR_SHAPE');
  });
});

describe('groups', () => {
  it('of asymmetric codes have a shape', () => {
    for (const shape of wrongObjects())
      refused(() => call('quantizeAsymmetricGroups')(rows(), 4, shape), 'ERR_ARG_TYPE');
    const shape = { bits: 8, tokens: 1, channels: 1 };
    for (const field of ['bits', 'tokens', 'channels']) {
      for (const wrong of wrongNumbers())
        refused(() => call('quantizeAsymmetricGroups')(rows(), 4, { ...shape, [field]: wrong }), 'ERR_ARG_TYPE');
      for (const wrong of [0, -1, 1.5, Number.NaN, 1e308])
        refused(
          () => call('quantizeAsymmetricGroups')(rows(), 4, { ...shape, [field]: wrong }),
          'ERR_ARG_RANGE',
          field,
        );
    }
  });

  it('of INT4 are 32, 64 or 128, blocks of tokens positive', () => {
    for (const group of wrongNumbers()) refused(() => call('quantizePerGroupInt4')(rows(), 8, group), 'ERR_ARG_TYPE');
    for (const tokens of wrongNumbers().slice(1))
      refused(() => call('quantizePerBlockInt8')(rows(), 4, tokens), 'ERR_ARG_TYPE');
    for (const tokens of [0, 1.5, Number.NaN, Infinity])
      refused(() => q.quantizePerBlockInt8(rows(), 4, tokens), 'ERR_ARG_RANGE', 'blockTokens');
  });
});

describe('hadamardBlock', () => {
  it('knows powers of two beyond 2^31, and refuses what is no length', () => {
    expect([1, 80, 96, 128, 2 ** 31, 2 ** 40 * 3].map(q.hadamardBlock)).toEqual([1, 16, 32, 128, 2 ** 31, 2 ** 40]);
    for (const dim of [0, -4, 1.5, Number.NaN, Infinity]) refused(() => q.hadamardBlock(dim), 'ERR_ARG_RANGE', 'dim');
    for (const dim of wrongNumbers()) refused(() => call('hadamardBlock')(dim), 'ERR_ARG_TYPE');
  });
});

describe('calibrateInt8', () => {
  it('gives what options throw as its own error', () => {
    for (const options of [
      revoked(),
      {
        get method() {
          throw new Error('getter');
        },
      },
    ])
      refused(() => call('calibrateInt8')(rows(), options), 'ERR_ARG_TYPE');
  });
});

describe('more memory than there is', () => {
  it.each(['smoothK', 'quantizePerChannelInt8', 'quantizeTokenLevelV'])('%s of no rows says how much', (name) => {
    expect(() => call(name)(new Float32Array(0), 2 ** 45)).toThrow(
      expect.objectContaining({ code: 'ERR_OOM', where: 'host', bytes: expect.any(Number) }),
    );
  });

  it('is not asked for where there is nothing to turn', () => {
    expect(q.hadamardRotate(new Float32Array(0), 2 ** 45)).toEqual(new Float32Array(0));
  });
});

describe('widenInt4Linear', () => {
  it('gives back other weights, and refuses what is none', () => {
    const weights = { type: 'fp32', rows: 1, cols: 2, weights: ones(2) } as const;
    expect(q.widenInt4Linear(weights)).toBe(weights);
    refused(() => call('widenInt4Linear')({ ...weights, type: 'nope' }), 'ERR_ARG_RANGE', 'type');
    const [int4] = byName.widenInt4Linear;
    for (const wrong of [{ rows: 2 }, { cols: 64 }, { rows: Number.NaN }, { cols: 'x' }])
      expect(() => call('widenInt4Linear')({ ...int4, ...wrong })).toThrow(IntFlashError);
  });
});
