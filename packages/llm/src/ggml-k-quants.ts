// ggml's "K" types: blocks of 256 numbers in parts of 32 or 16, whose scales are codes themselves.
import { blockFloats } from './ggml-blocks.js';

const BLOCK = 256;
const PART = 32; // of Q4_K and Q5_K: numbers that share a scale and a minimum
const PARTS = BLOCK / PART;

const Q4_K = { bytes: 144, scales: 4, codes: 16 };
const Q5_K = { bytes: 176, scales: 4, high: 16, codes: 48 };
const Q6_K = { bytes: 210, high: 128, scales: 192, scale: 208 };

/**
 * `x = d · scale · code - dmin · minimum`: codes of 4 bits, two parts in the halves of the same 32 bytes, scales and minima of 6 bits.
 * Bytes of a block: d and dmin in float16, 12 of scales and minima, 128 of codes.
 */
export function dequantizeQ4K(bytes: Uint8Array): Float32Array {
  return dequantizeParts(bytes, Q4_K, (block, part, i) => {
    const pair = bytes[block + Q4_K.codes + (part >> 1) * PART + i]!;
    return (part & 1) === 0 ? pair & 15 : pair >> 4;
  });
}

/** As Q4_K, and a fifth bit of each code: bit `part` of one of 32 more bytes, which lie before the codes. */
export function dequantizeQ5K(bytes: Uint8Array): Float32Array {
  return dequantizeParts(bytes, Q5_K, (block, part, i) => {
    const pair = bytes[block + Q5_K.codes + (part >> 1) * PART + i]!;
    const high = (bytes[block + Q5_K.high + i]! >> part) & 1;
    return ((part & 1) === 0 ? pair & 15 : pair >> 4) | (high << 4);
  });
}

function dequantizeParts(
  bytes: Uint8Array,
  layout: { readonly bytes: number; readonly scales: number },
  codeAt: (block: number, part: number, i: number) => number,
): Float32Array {
  const scales = blockFloats(bytes, layout.bytes);
  const minima = blockFloats(bytes, layout.bytes, 2);
  const out = new Float32Array(scales.length * BLOCK);
  for (let index = 0, block = 0; index < scales.length; index++, block += layout.bytes) {
    for (let part = 0; part < PARTS; part++) {
      const [scaleCode, minimumCode] = partFactors(bytes, block + layout.scales, part);
      const scale = Math.fround(scales[index]! * scaleCode);
      const minimum = Math.fround(minima[index]! * minimumCode);
      const to = index * BLOCK + part * PART;
      for (let i = 0; i < PART; i++) out[to + i] = scale * codeAt(block, part, i) - minimum;
    }
  }
  return out;
}

/**
 * Scale and minimum of a part, 6 bits each, in 12 bytes: of the first four parts the low 6 bits of bytes 0 to 3 and 4 to 7; of the others the halves
 * of bytes 8 to 11, below the two bits that are left of bytes 0 to 3 and 4 to 7.
 */
function partFactors(bytes: Uint8Array, at: number, part: number): [scale: number, minimum: number] {
  if (part < 4) return [bytes[at + part]! & 63, bytes[at + part + 4]! & 63];
  const low = bytes[at + part + 4]!;
  return [(low & 15) | ((bytes[at + part - 4]! >> 6) << 4), (low >> 4) | ((bytes[at + part]! >> 6) << 4)];
}

/**
 * `x = d · scale · (code - 32)`: codes of 6 bits, INT8 scales of 16 numbers each. Bytes of a block: 128 with the low four bits, 64 with the high two,
 * 16 scales, d in float16. Each half of a block is four runs of 32 numbers: run r has the low or (r > 1) high halves of its 32 of 64 bytes, and bits
 * 2r and 2r + 1 of 32 more.
 */
export function dequantizeQ6K(bytes: Uint8Array): Float32Array {
  const signed = new Int8Array(bytes.buffer, bytes.byteOffset, bytes.length);
  const scales = blockFloats(bytes, Q6_K.bytes, Q6_K.scale);
  const out = new Float32Array(scales.length * BLOCK);
  for (let index = 0, block = 0; index < scales.length; index++, block += Q6_K.bytes) {
    for (let run = 0; run < 8; run++) {
      const half = run >> 2;
      const low = block + half * 64 + (run & 1) * PART;
      const high = block + Q6_K.high + half * PART;
      const to = index * BLOCK + run * PART;
      for (let i = 0, scale = 0; i < PART; i++) {
        if (i % 16 === 0) scale = Math.fround(scales[index]! * signed[block + Q6_K.scales + 2 * run + i / 16]!);
        const four = (run & 2) === 0 ? bytes[low + i]! & 15 : bytes[low + i]! >> 4;
        const two = (bytes[high + i]! >> (2 * (run & 3))) & 3;
        out[to + i] = scale * ((four | (two << 4)) - 32);
      }
    }
  }
  return out;
}
