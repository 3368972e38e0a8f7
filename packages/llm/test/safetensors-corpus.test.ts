import { IntFlashError } from '@int-flash/ops';
import { describe, expect, it } from 'vitest';
import { readSafetensors } from '../src/safetensors.js';

/** A file with this header text (or bytes), data of `dataBytes` zeros and, if given, a length that is not the header's. */
function file(header: string | Uint8Array, dataBytes = 0, statedLength?: bigint): Uint8Array {
  const json = typeof header === 'string' ? new TextEncoder().encode(header) : header;
  const bytes = new Uint8Array(8 + json.length + dataBytes);
  new DataView(bytes.buffer).setBigUint64(0, statedLength ?? BigInt(json.length), true);
  bytes.set(json, 8);
  return bytes;
}

/** A header of one F32 [2] tensor over bytes 0 to 8, with one field replaced. */
function one(field: 'dtype' | 'shape' | 'data_offsets', json: string): Uint8Array {
  const fields = { dtype: '"F32"', shape: '[2]', data_offsets: '[0,8]', [field]: json };
  return file(`{"t":{"dtype":${fields.dtype},"shape":${fields.shape},"data_offsets":${fields.data_offsets}}}`, 8);
}

const T = '"dtype":"F32","shape":[1]';
const deep = (depth: number) => `${'['.repeat(depth)}${']'.repeat(depth)}`;
const FORMAT = 'ERR_MODEL_FORMAT';
const LIMIT = 'ERR_MODEL_LIMIT';

const corpus: [string, Uint8Array, string][] = [
  // the length
  ...[0, 1, 2, 3, 4, 5, 6, 7].map((n): [string, Uint8Array, string] => [`${n} bytes`, new Uint8Array(n), FORMAT]),
  ['a length of 0', file(''), FORMAT],
  ['a length past the end', file('{}', 0, 3n), FORMAT],
  ['a length that eats the data', file('{}', 8, 11n), FORMAT],
  ['a length over 25 MB', file('{}', 0, 25_000_001n), LIMIT],
  ['a length of 2^53 + 1', file('{}', 0, 2n ** 53n + 1n), LIMIT],
  ['a length of 2^63', file('{}', 0, 2n ** 63n), LIMIT],
  ['a length of 2^64 - 1', file('{}', 0, 2n ** 64n - 1n), LIMIT],
  ['a length shorter than the JSON', file('{"a":1}', 0, 3n), FORMAT],
  // the text
  ['bytes that are not UTF-8', file(Uint8Array.of(0x7b, 0x22, 0xff, 0x22, 0x7d)), FORMAT],
  ['a cut UTF-8 character', file(Uint8Array.of(0x7b, 0x22, 0xc3, 0x22, 0x7d)), FORMAT],
  ['an encoded surrogate', file(Uint8Array.of(0x7b, 0x22, 0xed, 0xa0, 0x80, 0x22, 0x7d)), FORMAT],
  ['a byte order mark', file('\ufeff{}'), FORMAT],
  ['a space in front', file(' {}'), FORMAT],
  ['an array', file('[]'), FORMAT],
  ['null', file('null'), FORMAT],
  ['a string', file('"{}"'), FORMAT],
  ['an open brace', file('{'), FORMAT],
  ['an open string', file('{"a'), FORMAT],
  ['a trailing comma', file('{"__metadata__":{},}'), FORMAT],
  ['single quotes', file("{'a':1}"), FORMAT],
  ['a comment', file('{/**/}'), FORMAT],
  ['two objects', file('{}{}'), FORMAT],
  ['a zero byte after it', file('{}\0'), FORMAT],
  ['65 levels', file(`{"a":${deep(64)}}`), LIMIT],
  ['20,000 levels', file(`{"a":${deep(20_000)}}`), LIMIT],
  // names
  ['a name twice', file(`{"a":{${T},"data_offsets":[0,4]},"a":{${T},"data_offsets":[0,4]}}`, 4), FORMAT],
  [
    'a name twice, once escaped',
    file(`{"a":{${T},"data_offsets":[0,4]},"\\u0061":{${T},"data_offsets":[4,8]}}`, 8),
    FORMAT,
  ],
  ['metadata twice', file('{"__metadata__":{},"__metadata__":{}}'), FORMAT],
  ['a field twice', file(`{"a":{${T},"shape":[2],"data_offsets":[0,8]}}`, 8), FORMAT],
  ['a metadata key twice', file('{"__metadata__":{"k":"1","k":"2"}}'), FORMAT],
  // metadata
  ['metadata of numbers', file('{"__metadata__":{"k":1}}'), FORMAT],
  ['metadata of objects', file('{"__metadata__":{"k":{}}}'), FORMAT],
  ['metadata that is an array', file('{"__metadata__":[]}'), FORMAT],
  ['metadata that is null', file('{"__metadata__":null}'), FORMAT],
  // the tensor
  ['a tensor that is null', file('{"t":null}'), FORMAT],
  ['a tensor that is a number', file('{"t":1}'), FORMAT],
  ['a tensor that is an array', file('{"t":[]}'), FORMAT],
  ['an empty tensor object', file('{"t":{}}'), FORMAT],
  ['a key too many', file(`{"t":{${T},"data_offsets":[0,4],"strides":[1]}}`, 4), FORMAT],
  ['no dtype', file('{"t":{"shape":[1],"data_offsets":[0,4]}}', 4), FORMAT],
  ['no shape', file('{"t":{"dtype":"F32","data_offsets":[0,4]}}', 4), FORMAT],
  ['no data_offsets', file(`{"t":{${T}}}`, 4), FORMAT],
  ['an unknown dtype', one('dtype', '"F33"'), FORMAT],
  ['a dtype in lower case', one('dtype', '"f32"'), FORMAT],
  ['a dtype from the prototype', one('dtype', '"constructor"'), FORMAT],
  ['a dtype that is a number', one('dtype', '32'), FORMAT],
  ['a dtype of another width', one('dtype', '"F64"'), FORMAT],
  ['a negative dim', one('shape', '[-2]'), FORMAT],
  ['two negative dims', one('shape', '[-1,-2]'), FORMAT],
  ['a fractional dim', one('shape', '[1.5]'), FORMAT],
  ['a dim written 2.0', one('shape', '[2.0]'), FORMAT],
  ['a dim written 2e0', one('shape', '[2e0]'), FORMAT],
  ['a dim that is a string', one('shape', '["2"]'), FORMAT],
  ['a dim that is null', one('shape', '[null]'), FORMAT],
  ['a nested shape', one('shape', '[[2]]'), FORMAT],
  ['a shape that is a number', one('shape', '2'), FORMAT],
  ['a dim of 2^53 + 1', one('shape', '[9007199254740993]'), FORMAT],
  ['a dim of 1e400', one('shape', '[1e400]'), FORMAT],
  ['dims whose product passes 2^64', one('shape', '[4294967296,4294967296,4]'), FORMAT],
  ['dims whose product wraps to 2', one('shape', '[9223372036854775809,2]'), FORMAT],
  ['a scalar over 8 bytes', one('shape', '[]'), FORMAT],
  ['a dim too large for its span', one('shape', '[3]'), FORMAT],
  ['an empty shape for a full span', one('shape', '[0]'), FORMAT],
  ['rank 9', one('shape', '[1,1,1,1,1,1,1,1,2]'), LIMIT],
  ['a begin of -1', one('data_offsets', '[-1,7]'), FORMAT],
  ['a begin of -0', one('data_offsets', '[-0,8]'), FORMAT],
  ['an end of 8.5', one('data_offsets', '[0.5,8.5]'), FORMAT],
  ['an end of 2^53 + 1', one('data_offsets', '[0,9007199254740993]'), FORMAT],
  ['an end before the begin', one('data_offsets', '[8,0]'), FORMAT],
  ['one offset', one('data_offsets', '[0]'), FORMAT],
  ['three offsets', one('data_offsets', '[0,8,8]'), FORMAT],
  ['offsets that are strings', one('data_offsets', '["0","8"]'), FORMAT],
  ['offsets that are null', one('data_offsets', 'null'), FORMAT],
  // coverage
  ['a gap in front', one('data_offsets', '[4,12]'), FORMAT],
  ['an end past the file', file(`{"t":{${T},"data_offsets":[0,4]}}`, 3), FORMAT],
  ['a byte after the last tensor', file(`{"t":{${T},"data_offsets":[0,4]}}`, 5), FORMAT],
  ['data without tensors', file('{}', 1), FORMAT],
  ['a gap between two', file(`{"a":{${T},"data_offsets":[0,4]},"b":{${T},"data_offsets":[8,12]}}`, 12), FORMAT],
  ['an overlap', file(`{"a":{${T},"data_offsets":[0,4]},"b":{${T},"data_offsets":[2,6]}}`, 6), FORMAT],
  ['the same span twice', file(`{"a":{${T},"data_offsets":[0,4]},"b":{${T},"data_offsets":[0,4]}}`, 4), FORMAT],
  [
    'an empty tensor inside another',
    file(`{"a":{${T},"data_offsets":[0,4]},"e":{"dtype":"F32","shape":[0],"data_offsets":[2,2]}}`, 4),
    FORMAT,
  ],
  ['an empty tensor past the end', file('{"e":{"dtype":"F32","shape":[0],"data_offsets":[9,9]}}'), FORMAT],
];

describe('readSafetensors refuses', () => {
  it('at least 60 kinds of file', () => expect(corpus.length).toBeGreaterThanOrEqual(60));

  it.each(corpus)('%s', (_, bytes, code) => {
    let error: unknown;
    try {
      readSafetensors(bytes);
    } catch (thrown) {
      error = thrown;
    }
    expect(error).toBeInstanceOf(IntFlashError);
    expect(error).toMatchObject({ code, field: expect.any(String), offset: expect.any(Number) });
    const { offset, message } = error as IntFlashError;
    expect(offset).toBeLessThanOrEqual(Number.MAX_SAFE_INTEGER);
    expect(message).toMatch(/^Expected /);
  });

  it('more than 100,000 tensors', () => {
    const names = Array.from({ length: 100_001 }, (_, i) => `"${i}":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}`);
    expect(() => readSafetensors(file(`{${names.slice(0, 100_000).join()}}`))).not.toThrow();
    expect(() => readSafetensors(file(`{${names.join()}}`))).toThrow(/at most 100000 tensors/);
  });

  it('a tensor named __proto__ only if it is wrong', () => {
    const tensors = readSafetensors(file(`{"__proto__":{${T},"data_offsets":[0,4]}}`, 4));
    expect([...tensors.keys()]).toEqual(['__proto__']);
    expect(({} as Record<string, unknown>).dtype).toBeUndefined();
  });
});

describe('readSafetensors takes', () => {
  const good: [string, Uint8Array, string[]][] = [
    ['a file without tensors', file('{}'), []],
    ['padding with spaces', file('{}      '), []],
    ['metadata only', file('{"__metadata__":{"format":"pt"}}'), []],
    ['a scalar', file('{"s":{"dtype":"F32","shape":[],"data_offsets":[0,4]}}', 4), ['s']],
    [
      'an empty tensor between two',
      file(
        `{"b":{${T},"data_offsets":[4,8]},"e":{"dtype":"I64","shape":[0,3],"data_offsets":[4,4]},"a":{${T},"data_offsets":[0,4]}}`,
        8,
      ),
      ['a', 'e', 'b'],
    ],
    ['200 levels inside a string', file(`{"__metadata__":{"k":"${deep(200)}"}}`), []],
    ['words with e and signs in names', file(`{"-1e.5":{${T},"data_offsets":[0,4]}}`, 4), ['-1e.5']],
  ];

  it.each(good)('%s', (_, bytes, names) => expect([...readSafetensors(bytes).keys()]).toEqual(names));

  it('data at an odd address', () => {
    const bytes = file(
      '{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"F32","shape":[1],"data_offsets":[1,5]}}',
      5,
    );
    new DataView(bytes.buffer).setFloat32(bytes.length - 4, 1.5, true);
    expect([...readSafetensors(bytes).get('b')!.data]).toEqual([1.5]);
  });
});
