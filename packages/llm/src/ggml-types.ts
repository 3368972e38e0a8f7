import { toFloat32 } from '@int-flash/ops';
import { blockFloats } from './ggml-blocks.js';
import { dequantizeQ4K, dequantizeQ5K, dequantizeQ6K } from './ggml-k-quants.js';

/** A tensor type of ggml: blocks of `elements` numbers in `bytes` bytes. */
export interface GgmlType {
  readonly name: string;
  readonly elements: number;
  readonly bytes: number;
}

/** By the number in the file. Those without an entry are gone from ggml, or newer than this list. */
export const GGML_TYPES: Readonly<Record<number, GgmlType>> = {
  0: { name: 'F32', elements: 1, bytes: 4 },
  1: { name: 'F16', elements: 1, bytes: 2 },
  2: { name: 'Q4_0', elements: 32, bytes: 18 },
  3: { name: 'Q4_1', elements: 32, bytes: 20 },
  6: { name: 'Q5_0', elements: 32, bytes: 22 },
  7: { name: 'Q5_1', elements: 32, bytes: 24 },
  8: { name: 'Q8_0', elements: 32, bytes: 34 },
  9: { name: 'Q8_1', elements: 32, bytes: 36 },
  10: { name: 'Q2_K', elements: 256, bytes: 84 },
  11: { name: 'Q3_K', elements: 256, bytes: 110 },
  12: { name: 'Q4_K', elements: 256, bytes: 144 },
  13: { name: 'Q5_K', elements: 256, bytes: 176 },
  14: { name: 'Q6_K', elements: 256, bytes: 210 },
  15: { name: 'Q8_K', elements: 256, bytes: 292 },
  16: { name: 'IQ2_XXS', elements: 256, bytes: 66 },
  17: { name: 'IQ2_XS', elements: 256, bytes: 74 },
  18: { name: 'IQ3_XXS', elements: 256, bytes: 98 },
  19: { name: 'IQ1_S', elements: 256, bytes: 50 },
  20: { name: 'IQ4_NL', elements: 32, bytes: 18 },
  21: { name: 'IQ3_S', elements: 256, bytes: 110 },
  22: { name: 'IQ2_S', elements: 256, bytes: 82 },
  23: { name: 'IQ4_XS', elements: 256, bytes: 136 },
  24: { name: 'I8', elements: 1, bytes: 1 },
  25: { name: 'I16', elements: 1, bytes: 2 },
  26: { name: 'I32', elements: 1, bytes: 4 },
  27: { name: 'I64', elements: 1, bytes: 8 },
  28: { name: 'F64', elements: 1, bytes: 8 },
  29: { name: 'IQ1_M', elements: 256, bytes: 56 },
  30: { name: 'BF16', elements: 1, bytes: 2 },
};

/** The types whose numbers can be read; the others can only be listed. */
export const READABLE_GGML_TYPES = [
  'F32',
  'F16',
  'BF16',
  'Q8_0',
  'Q6_K',
  'Q5_K',
  'Q5_1',
  'Q5_0',
  'Q4_K',
  'Q4_1',
  'Q4_0',
] as const;
export type ReadableGgmlType = (typeof READABLE_GGML_TYPES)[number];

/** Whether numbers of a type are codes, with scales for some of them together. */
export function isQuantized(type: GgmlType): boolean {
  return type.name.startsWith('Q');
}

const BLOCK = 32; // of all but the K types
const Q8_BYTES = 34; // float16 scale, 32 codes
/** A float16 scale, perhaps a minimum in float16 and each code's fifth bit in 4 bytes, 16 bytes with two codes of 4 bits: at these bytes of a block. */
const Q4_0 = { bytes: 18, codes: 2, zero: 8 };
const Q4_1 = { bytes: 20, minimum: 2, codes: 4, zero: 0 };
const Q5_0 = { bytes: 22, fifth: 2, codes: 6, zero: 16 };
const Q5_1 = { bytes: 24, minimum: 2, fifth: 4, codes: 8, zero: 0 };
const TWO_ZEROS = 0x88; // Q4_0's zero in both halves of a byte

/** All numbers of a tensor as float32. @param bytes whole blocks, at an even address. */
export function dequantizeGgml(type: ReadableGgmlType, bytes: Uint8Array): Float32Array {
  switch (type) {
    case 'F32':
      return new Float32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4);
    case 'F16':
      return toFloat32(words(bytes), 'float16');
    case 'BF16':
      return toFloat32(words(bytes), 'bfloat16');
    case 'Q8_0':
      return dequantizeQ8(bytes);
    case 'Q6_K':
      return dequantizeQ6K(bytes);
    case 'Q5_K':
      return dequantizeQ5K(bytes);
    case 'Q4_K':
      return dequantizeQ4K(bytes);
    case 'Q5_1':
      return dequantizeFours(bytes, Q5_1);
    case 'Q5_0':
      return dequantizeFours(bytes, Q5_0);
    case 'Q4_1':
      return dequantizeFours(bytes, Q4_1);
    case 'Q4_0':
      return dequantizeFours(bytes, Q4_0);
  }
}

/** `x = scale · code`, a scale for 32 codes. */
function dequantizeQ8(bytes: Uint8Array): Float32Array {
  const codes = new Int8Array(bytes.buffer, bytes.byteOffset, bytes.length);
  const scales = blockFloats(bytes, Q8_BYTES);
  const out = new Float32Array(scales.length * BLOCK);
  for (let block = 0, from = 2; block < scales.length; block++, from += Q8_BYTES) {
    const scale = scales[block]!;
    const to = block * BLOCK;
    for (let i = 0; i < BLOCK; i++) out[to + i] = scale * codes[from + i]!;
  }
  return out;
}

/**
 * `x = scale · (code - zero) + minimum`: byte i of the codes holds element i in its low and element i + 16 in its high half; the fifth bit of element i is
 * bit i of four bytes.
 */
function dequantizeFours(
  bytes: Uint8Array,
  layout: { bytes: number; codes: number; zero: number; minimum?: number; fifth?: number },
): Float32Array {
  const { zero, minimum, fifth } = layout;
  const scales = blockFloats(bytes, layout.bytes);
  const minima = minimum === undefined ? undefined : blockFloats(bytes, layout.bytes, minimum);
  const out = new Float32Array(scales.length * BLOCK);
  for (let block = 0, from = 0; block < scales.length; block++, from += layout.bytes) {
    const to = block * BLOCK;
    for (let i = 0; i < BLOCK; i++) {
      const pair = bytes[from + layout.codes + (i & 15)]!;
      const four = i < BLOCK / 2 ? pair & 15 : pair >> 4;
      const high = fifth === undefined ? 0 : ((bytes[from + fifth + (i >> 3)]! >> (i & 7)) & 1) << 4;
      const number = scales[block]! * ((four | high) - zero);
      out[to + i] = minima ? number + minima[block]! : number;
    }
  }
  return out;
}

/**
 * The INT8 rows that a Q8_0 tensor is, where every block of a row has the same scale and no code is -128; `undefined` where some row
 * has not, and codes under one scale a row would be other numbers.
 */
export function exactInt8Rows(
  bytes: Uint8Array,
  rows: number,
  cols: number,
): { codes: Int8Array; scales: Float32Array } | undefined {
  const blocks = cols / BLOCK;
  const given = blockFloats(bytes, Q8_BYTES);
  const signed = new Int8Array(bytes.buffer, bytes.byteOffset, bytes.length);
  const scales = Float32Array.from({ length: rows }, (_, row) => given[row * blocks]!);
  const isRows = (scale: number, block: number) =>
    scale > 0 && scale < Infinity && scale === scales[Math.floor(block / blocks)];
  if (!given.every(isRows)) return undefined;
  const codes = new Int8Array(rows * cols);
  for (let block = 0; block < given.length; block++) {
    const part = signed.subarray(block * Q8_BYTES + 2, (block + 1) * Q8_BYTES);
    if (part.includes(-128)) return undefined;
    codes.set(part, block * BLOCK);
  }
  return { codes, scales };
}

/**
 * The INT4 weights that a Q4_0 tensor is, in groups of 32: codes in two's complement, neighbours in a byte, the first in its low half. Scales may be
 * negative: ggml has the largest number of a block as -8 times its scale.
 */
export function int4Groups(bytes: Uint8Array): { packed: Uint8Array; scales: Float32Array } {
  const scales = blockFloats(bytes, Q4_0.bytes);
  const packed = new Uint8Array((scales.length * BLOCK) / 2);
  for (let block = 0; block < scales.length; block++) {
    const from = block * Q4_0.bytes + Q4_0.codes;
    const to = (block * BLOCK) / 2;
    for (let i = 0; i < BLOCK / 4; i++) {
      const first = bytes[from + 2 * i]! ^ TWO_ZEROS; // code - 8 in four bits is code with its highest bit turned
      const second = bytes[from + 2 * i + 1]! ^ TWO_ZEROS;
      packed[to + i] = (first & 15) | (second << 4);
      packed[to + BLOCK / 4 + i] = (first >> 4) | (second & 0xf0);
    }
  }
  return { packed, scales };
}

function words(bytes: Uint8Array): Uint16Array {
  return new Uint16Array(bytes.buffer, bytes.byteOffset, bytes.length / 2);
}
