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
export const READABLE_GGML_TYPES = ['F32', 'F16', 'BF16', 'Q8_0', 'Q6_K', 'Q5_K', 'Q4_K', 'Q5_0', 'Q4_0'] as const;
export type ReadableGgmlType = (typeof READABLE_GGML_TYPES)[number];

const BLOCK = 32; // of Q8_0, Q5_0 and Q4_0
const Q8_BYTES = 34; // float16 scale, 32 codes
const Q4_BYTES = 18; // float16 scale, 16 bytes of two codes
const Q4_ZERO = 8;
const Q5_BYTES = 22; // float16 scale, 4 bytes with each code's fifth bit, 16 with the others
const Q5_ZERO = 16;
const TWO_ZEROS = 0x88; // in both halves of a byte

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
    case 'Q5_0':
      return dequantizeQ5(bytes);
    case 'Q4_0':
      return dequantizeQ4(bytes);
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

/** `x = scale · (code - 16)`; the low four bits as in Q4_0, the fifth of element i in bit i of the 4 bytes before them. */
function dequantizeQ5(bytes: Uint8Array): Float32Array {
  const scales = blockFloats(bytes, Q5_BYTES);
  const out = new Float32Array(scales.length * BLOCK);
  const fifth = (from: number, i: number) => ((bytes[from + (i >> 3)]! >> (i & 7)) & 1) << 4;
  for (let block = 0, from = 2; block < scales.length; block++, from += Q5_BYTES) {
    const scale = scales[block]!;
    const to = block * BLOCK;
    for (let i = 0; i < BLOCK / 2; i++) {
      const pair = bytes[from + 4 + i]!;
      out[to + i] = scale * (((pair & 15) | fifth(from, i)) - Q5_ZERO);
      out[to + BLOCK / 2 + i] = scale * (((pair >> 4) | fifth(from, i + BLOCK / 2)) - Q5_ZERO);
    }
  }
  return out;
}

/** `x = scale · (code - 8)`; byte i of a block holds element i in its low and element i + 16 in its high half. */
function dequantizeQ4(bytes: Uint8Array): Float32Array {
  const scales = blockFloats(bytes, Q4_BYTES);
  const out = new Float32Array(scales.length * BLOCK);
  for (let block = 0, from = 2; block < scales.length; block++, from += Q4_BYTES) {
    const scale = scales[block]!;
    const to = block * BLOCK;
    for (let i = 0; i < BLOCK / 2; i++) {
      const pair = bytes[from + i]!;
      out[to + i] = scale * ((pair & 15) - Q4_ZERO);
      out[to + BLOCK / 2 + i] = scale * ((pair >> 4) - Q4_ZERO);
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
  if (!given.every((scale, block) => scale > 0 && scale === scales[Math.floor(block / blocks)])) return undefined;
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
  const scales = blockFloats(bytes, Q4_BYTES);
  const packed = new Uint8Array((scales.length * BLOCK) / 2);
  for (let from = 2, to = 0; to < packed.length; from += Q4_BYTES, to += BLOCK / 2) {
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
