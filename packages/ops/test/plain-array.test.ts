import { describe, expect, it } from 'vitest';
import {
  arrayLength,
  checkBuffer,
  judgeAttention,
  judgeQuantizedAttention,
  judgeTensor,
  plainArray,
  typedArrayKind,
} from '../src/index.js';

class Longer extends Float32Array {
  override get length(): number {
    return 64;
  }
}
const own = <T extends object>(array: T, name: PropertyKey, value: unknown): T =>
  Object.defineProperty(array, name, { value });
const throwing = (name: string) =>
  Object.defineProperty(Float32Array.of(1, 2, 3, 4, 5, 6, 7, 8), name, {
    get() {
      throw new Error('not to be asked');
    },
  });
const eight = () => Float32Array.of(1, 2, 3, 4, 5, 6, 7, 8);

/** Arrays of 1 to 8 that say something else of themselves. */
const lying: readonly (readonly [string, Float32Array])[] = [
  ['a longer length', own(eight(), 'length', 64)],
  ['a shorter length', own(eight(), 'length', 5)],
  ['a length that throws', throwing('length')],
  ['a subclass with a length', Longer.from([1, 2, 3, 4, 5, 6, 7, 8])],
  ['another buffer', own(eight(), 'buffer', new ArrayBuffer(256))],
  ['another offset', own(eight(), 'byteOffset', 4)],
  ['another size', own(eight(), 'byteLength', 4)],
  ['parts of its own', own(eight(), 'subarray', () => new Float32Array(64))],
  ['copies of its own', own(eight(), 'slice', () => new Float32Array(64))],
  ['entries of its own', own(eight(), Symbol.iterator, function* () {})],
  [
    'other ways to go through it',
    own(
      own(eight(), 'findIndex', () => -1),
      'map',
      () => new Float32Array(8),
    ),
  ],
  ['a constructor that throws', throwing('constructor')],
  ['another prototype', Object.setPrototypeOf(eight(), Uint8Array.prototype)],
  ['no prototype', Object.setPrototypeOf(eight(), null)],
];

describe.each(lying)('%s', (_, array) => {
  it('is taken as the array it is', () => {
    const plain = plainArray(array);
    expect(Object.getPrototypeOf(plain)).toBe(Float32Array.prototype);
    expect(plain).toEqual(eight());
    expect(arrayLength(array, 'x')).toBe(8);
    const judged = judgeTensor({ type: 'float32', dims: [8], data: array }, 'x');
    expect(judged.data).toEqual(eight());
    expect(judged.data.subarray(6)).toEqual(Float32Array.of(7, 8));
  });

  it('fits no other dims than its own', () => {
    const shape = expect.objectContaining({ code: 'ERR_SHAPE' });
    for (const dims of [[64], [5], [2, 8]])
      expect(() => judgeTensor({ type: 'float32', dims, data: array }, 'x')).toThrow(shape);
    expect(() => judgeTensor({ type: 'float32', dims: [2, 8], strides: [8, 1], data: array }, 'x')).toThrow(shape);
  });
});

it('a plain array stays the one it is, and its memory is shared by what stands for another', () => {
  const array = eight();
  expect(plainArray(array)).toBe(array);
  expect(judgeTensor({ type: 'float32', dims: [8], data: array }, 'x').data).toBe(array);
  const buffer = Buffer.from([1, 2, 3]);
  const bytes = plainArray(buffer);
  expect(bytes.constructor).toBe(Uint8Array);
  buffer[1] = 7;
  expect([...bytes]).toEqual([1, 7, 3]);
});

it('what is no typed array has no length', () => {
  for (const value of [[1, 2], new DataView(new ArrayBuffer(8)), new Proxy(eight(), {}), null, { length: 8 }]) {
    expect(typedArrayKind(value)).toBeUndefined();
    expect(plainArray(value)).toBe(value);
    expect(() => arrayLength(value, 'input')).toThrow(
      expect.objectContaining({ code: 'ERR_ARG_TYPE', message: expect.stringContaining('input to be a typed array') }),
    );
  }
});

it('shared memory is seen behind another buffer', () => {
  const shared = own(new Float32Array(new SharedArrayBuffer(32)), 'buffer', new ArrayBuffer(32));
  expect(() => checkBuffer(shared, 'x')).toThrow(expect.objectContaining({ code: 'ERR_BUFFER_SHARED' }));
  expect(() => checkBuffer(new DataView(new SharedArrayBuffer(8)) as never, 'x')).toThrow(
    expect.objectContaining({ code: 'ERR_BUFFER_SHARED' }),
  );
});

it('scales, masks and offsets of sequences are counted, not asked', () => {
  const codes = { type: 'int8', dims: [1, 2, 8], data: new Int8Array(16) };
  const scales = (data: Float32Array) => ({ type: 'float32', dims: [1, 2], data });
  const one = { type: 'float32', dims: [1], data: Float32Array.of(1) };
  const inputs = { q: codes, k: codes, v: codes, qScale: scales(Float32Array.of(1, 1)), vScale: one };
  const bad = own(Float32Array.of(1, Number.NaN), 'length', 1);
  expect(() => judgeQuantizedAttention({ ...inputs, kScale: scales(bad) })).toThrow(
    expect.objectContaining({ code: 'ERR_ARG_RANGE' }),
  );
  const floats = { type: 'float32', dims: [2, 1, 8], data: new Float32Array(16) };
  const packed = { query: floats, key: floats, value: floats };
  const offsets = own(own(Int32Array.of(0, 2), 'length', 1), Symbol.iterator as never, () => [][Symbol.iterator]());
  const { sequences } = judgeAttention(packed, { tensorLayout: 'NHD', cuSeqlensQ: offsets, cuSeqlensK: offsets });
  expect(sequences).toEqual([{ qStart: 0, qLen: 2, kStart: 0, kLen: 2 }]);
});

it('is nothing that throws where the memory is gone', () => {
  const array = Longer.from([1, 2]);
  structuredClone(array, { transfer: [array.buffer] });
  expect(plainArray(array)).toEqual(new Float32Array(0));
});
