import { numberToFloat16Bits } from '@int-flash/ops';

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

const NUMBERS = { uint32: 4, int32: 5, float32: 6, bool: 7, uint64: 10 } as const;
const [STRING, ARRAY] = [8, 9];

/** Writes a GGUF file; only for tests, the library reads them. */
export function writeGguf(
  metadata: Readonly<Record<string, GgufTyped>>,
  tensors: readonly GgufTensor[],
  { version = 3, alignment = 32 } = {},
): Buffer {
  const out: Buffer[] = [Buffer.from('GGUF'), u32(version), u64(tensors.length), u64(Object.keys(metadata).length)];
  for (const [key, value] of Object.entries(metadata)) out.push(text(key), typed(value));
  let offset = 0;
  for (const { name, shape, type, bytes } of tensors) {
    out.push(text(name), u32(shape.length), ...[...shape].reverse().map(u64), u32(type), u64(offset));
    offset += Math.ceil(bytes.length / alignment) * alignment;
  }
  const pad = (length: number) => Buffer.alloc((alignment - (length % alignment)) % alignment);
  const header = Buffer.concat(out);
  return Buffer.concat([header, pad(header.length), ...tensors.flatMap(({ bytes }) => [bytes, pad(bytes.length)])]);
}

function typed(value: GgufTyped): Buffer {
  switch (value[0]) {
    case 'string':
      return Buffer.concat([u32(STRING), text(value[1])]);
    case 'strings':
      return Buffer.concat([u32(ARRAY), u32(STRING), u64(value[1].length), ...value[1].map(text)]);
    case 'floats':
      return Buffer.concat([u32(ARRAY), u32(NUMBERS.float32), u64(value[1].length), ...value[1].map(f32)]);
    case 'ints':
      return Buffer.concat([u32(ARRAY), u32(NUMBERS.int32), u64(value[1].length), ...value[1].map(u32)]);
    default: {
      const [type, number] = value;
      const body = { uint32: u32, int32: u32, float32: f32, uint64: u64, bool: (x: number) => Buffer.from([x]) }[type](
        number,
      );
      return Buffer.concat([u32(NUMBERS[type]), body]);
    }
  }
}

function text(value: string): Buffer {
  const bytes = Buffer.from(value);
  return Buffer.concat([u64(bytes.length), bytes]);
}

function u32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value);
  return bytes;
}

function u64(value: number): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64LE(BigInt(value));
  return bytes;
}

function f32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeFloatLE(value);
  return bytes;
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
