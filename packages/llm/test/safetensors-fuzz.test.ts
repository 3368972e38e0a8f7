import { IntFlashError } from '@int-flash/ops';
import { expect, it } from 'vitest';
import {
  parseSafetensorsHeader,
  readHeaderLength,
  readSafetensors,
  SAFETENSORS_DTYPE_BYTES,
} from '../src/safetensors.js';
import { writeSafetensors } from '../src/safetensors-writer.js';

const INPUTS = 200_000;

/** mulberry32: 32 bits of state are plenty for choosing mutations, and a failure names its seed. */
function randomSource(seed: number): (below: number) => number {
  let state = seed;
  return (below) => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) % below;
  };
}

const SEEDS = [
  writeSafetensors(
    new Map([
      ['a', { dtype: 'F32', shape: [2, 3], data: new Float32Array(6) }],
      ['b.weight', { dtype: 'BF16', shape: [5], data: new Uint16Array(5) }],
      ['empty', { dtype: 'I64', shape: [0, 4], data: new BigInt64Array(0) }],
    ]),
    { format: 'pt' },
  ),
  writeSafetensors(new Map([['codes', { dtype: 'I8', shape: [3], data: new Int8Array(3) }]])),
  writeSafetensors(new Map([['x', { dtype: 'U8', shape: [], data: new Uint8Array(1) }]])),
];
const PIECES = [
  '0',
  '1',
  '-1',
  '9',
  '1e3',
  '9007199254740993',
  '4294967296',
  '[',
  ']',
  '{',
  '}',
  '"',
  ',',
  ':',
  ' ',
  '\\u0061',
  'null',
  '"a":',
  '"F32"',
  '"I64"',
  '"shape":[2]',
  '"data_offsets":[0,24]',
  '"dtype":"U8"',
  '[0,0]',
  '__metadata__',
  '\u00e9',
].map((piece) => new TextEncoder().encode(piece));

/** One to four edits of the header, some of the length or the data; afterwards the length is usually put right again. */
function mutate(seed: Uint8Array, random: (below: number) => number): Uint8Array {
  let bytes = seed.slice();
  for (let edits = 1 + random(4); edits > 0; edits--) {
    const at = random(4) === 0 ? random(bytes.length + 1) : Math.min(8 + random(120), bytes.length);
    const cut = random(3) === 0 ? random(12) : random(2);
    const piece =
      random(4) === 0
        ? Uint8Array.of(random(256))
        : random(3) === 0
          ? new Uint8Array(0)
          : PIECES[random(PIECES.length)]!;
    const next = new Uint8Array(Math.max(0, bytes.length - Math.min(cut, bytes.length - at)) + piece.length);
    next.set(bytes.subarray(0, at));
    next.set(piece, at);
    next.set(bytes.subarray(at + Math.min(cut, bytes.length - at)), at + piece.length);
    bytes = next;
  }
  if (bytes.length >= 8 && random(8) > 0) {
    const end = bytes.lastIndexOf(0x7d); // "}"
    if (end >= 8) new DataView(bytes.buffer).setBigUint64(0, BigInt(end + 1 - 8), true);
  }
  return bytes;
}

it(`holds against ${INPUTS.toLocaleString('en-US')} mutated files`, { timeout: 300_000 }, () => {
  const seed = 20240916;
  const random = randomSource(seed);
  const outcomes = new Map<string, number>();
  for (let i = 0; i < INPUTS; i++) {
    const bytes = mutate(SEEDS[random(SEEDS.length)]!, random);
    let outcome = 'accepted';
    try {
      checkAccepted(bytes);
    } catch (error) {
      if (!IntFlashError.isInstance(error))
        throw new Error(`seed ${seed}, input ${i}: ${[...bytes]}`, { cause: error });
      outcome = error.code;
      if (error.field === undefined || error.offset === undefined)
        throw new Error(`input ${i}: no field or offset`, { cause: error });
    }
    outcomes.set(outcome, (outcomes.get(outcome) ?? 0) + 1);
  }
  expect([...outcomes.keys()].sort()).toEqual(['ERR_MODEL_FORMAT', 'ERR_MODEL_LIMIT', 'accepted']);
  // A mutator that only makes rubbish, or none, would test one path of three.
  expect(outcomes.get('accepted')!).toBeGreaterThan(INPUTS / 200);
  expect(outcomes.get('ERR_MODEL_FORMAT')!).toBeGreaterThan(INPUTS / 4);
});

/** Accepted means safe: spans lie in the file, do not overlap and cover it, and every tensor can be read to its last element. */
function checkAccepted(bytes: Uint8Array): void {
  const tensors = readSafetensors(bytes);
  const length = readHeaderLength(bytes.subarray(0, 8), bytes.length);
  const header = parseSafetensorsHeader(bytes.subarray(8, 8 + length), bytes.length);
  let covered = header.dataOffset;
  for (const { name, offset, byteLength, dtype, shape } of header.entries.values()) {
    const { data } = tensors.get(name)!;
    const count = shape.reduce((product, dim) => product * dim, 1);
    if (offset !== covered || data.length !== count || byteLength !== count * SAFETENSORS_DTYPE_BYTES[dtype]) {
      throw new Error(`tensor ${name} leaves its span`);
    }
    if (count > 0 && data[count - 1] === undefined) throw new Error(`tensor ${name} cannot be read to its end`);
    covered += byteLength;
  }
  if (covered !== bytes.length) throw new Error('the file is not covered');
}
