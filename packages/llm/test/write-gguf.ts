import { numberToFloat16Bits } from '@int-flash/ops';
import { type GgufEntry, ggufHeader, padding } from '../../../tools/gguf-header.mjs';

/** Metadata as GGUF types it: `[type, value]`, arrays with their element type. */
export type GgufTyped =
  | readonly ['uint32' | 'int32' | 'float32' | 'uint64' | 'bool', number]
  | readonly ['string', string]
  | readonly ['strings', readonly string[]]
  | readonly ['floats' | 'ints', readonly number[]];

export interface GgufTensor {
  readonly name: string;
  /** Row-major, as everywhere but in the file. */
  readonly shape: readonly number[];
  readonly type: number;
  readonly bytes: Uint8Array;
}

/** Writes a GGUF file; only for tests, the library reads them. */
export function writeGguf(
  metadata: Readonly<Record<string, GgufTyped>>,
  tensors: readonly GgufTensor[],
  { version = 3, alignment = 32 } = {},
): Buffer {
  const facts = tensors.map((tensor) => ({ ...tensor, bytes: tensor.bytes.length }));
  const header = ggufHeader(Object.entries(metadata).map(entryOf), facts, { version, alignment });
  const pad = (length: number) => Buffer.alloc(padding(length, alignment));
  return Buffer.concat([header, ...tensors.flatMap(({ bytes }) => [bytes, pad(bytes.length)])]);
}

function entryOf([key, typed]: [string, GgufTyped]): GgufEntry {
  switch (typed[0]) {
    case 'strings':
      return [key, 'string', typed[1]];
    case 'floats':
      return [key, 'float32', typed[1]];
    case 'ints':
      return [key, 'int32', typed[1]];
    default:
      return [key, ...typed];
  }
}

/** ggml's types by number, with what turns numbers into their bytes. */
export const GGML = {
  f32: { type: 0, encode: (x: Float32Array) => new Uint8Array(x.slice().buffer) },
  f16: { type: 1, encode: (x: Float32Array) => new Uint8Array(Uint16Array.from(x, numberToFloat16Bits).buffer) },
  bf16: {
    type: 30,
    encode: (x: Float32Array) =>
      new Uint8Array(Uint16Array.from(new Uint32Array(x.slice().buffer), (b) => b >>> 16).buffer),
  },
  q8_0: { type: 8, encode: (x: Float32Array) => blocks(x, 34, encodeQ8) },
  q4_0: { type: 2, encode: (x: Float32Array) => blocks(x, 18, encodeQ4) },
} as const;

function blocks(x: Float32Array, bytes: number, encode: (x: Float32Array, to: Uint8Array) => void): Uint8Array {
  const out = new Uint8Array((x.length / 32) * bytes);
  for (let i = 0; i < x.length / 32; i++)
    encode(x.subarray(32 * i, 32 * i + 32), out.subarray(bytes * i, bytes * (i + 1)));
  return out;
}

/** As llama.cpp's reference quantizer: scale max / 127, rounded half away from zero. */
function encodeQ8(x: Float32Array, to: Uint8Array): void {
  const scale = x.reduce((max, value) => Math.max(max, Math.abs(value)), 0) / 127;
  writeScale(to, scale);
  for (let i = 0; i < 32; i++) to[2 + i] = scale === 0 ? 0 : Math.round(x[i]! / scale);
}

/** As llama.cpp's: the value of the largest magnitude becomes -8. */
function encodeQ4(x: Float32Array, to: Uint8Array): void {
  const extreme = x.reduce((best, value) => (Math.abs(value) > Math.abs(best) ? value : best), 0);
  const scale = extreme / -8;
  writeScale(to, scale);
  const code = (value: number) => (scale === 0 ? 8 : Math.min(15, Math.floor(value / scale + 8.5)));
  for (let i = 0; i < 16; i++) to[2 + i] = code(x[i]!) | (code(x[i + 16]!) << 4);
}

/** INT8 rows as Q8_0: each block of a row has the row's scale. */
export function int8RowsAsQ8(codes: Int8Array, scales: Float32Array, cols: number): Uint8Array {
  const out = new Uint8Array((codes.length / 32) * 34);
  for (let block = 0; block < codes.length / 32; block++) {
    writeScale(out.subarray(34 * block), scales[Math.floor((block * 32) / cols)]!);
    out.set(new Uint8Array(codes.buffer, codes.byteOffset + 32 * block, 32), 34 * block + 2);
  }
  return out;
}

function writeScale(to: Uint8Array, scale: number): void {
  const bits = numberToFloat16Bits(scale);
  to[0] = bits & 255;
  to[1] = bits >> 8;
}
