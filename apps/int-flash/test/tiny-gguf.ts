export interface TinyTensor {
  readonly name: string;
  /** [rows, cols]; the file has it the other way round. */
  readonly shape: readonly [number, number];
  readonly type: number;
  readonly bytes: number;
}

/** A GGUF file of zeros with some metadata: numbers as uint32 (fractions as float32), texts, lists of either. */
export function tinyGguf(
  metadata: Readonly<Record<string, number | string | readonly (number | string)[]>>,
  tensors: readonly TinyTensor[],
): Buffer {
  const parts: Buffer[] = [];
  const u32 = (value: number) => void parts.push(Buffer.from(Uint32Array.of(value).buffer));
  const u64 = (value: number) => void parts.push(Buffer.from(BigUint64Array.of(BigInt(value)).buffer));
  const text = (value: string) => {
    u64(Buffer.byteLength(value));
    parts.push(Buffer.from(value));
  };
  const typeOf = (value: number | string) => (typeof value === 'string' ? 8 : Number.isInteger(value) ? 4 : 6);
  const scalar = (value: number | string) => {
    if (typeof value === 'string') text(value);
    else parts.push(Buffer.from((Number.isInteger(value) ? Uint32Array : Float32Array).of(value).buffer));
  };
  parts.push(Buffer.from('GGUF'));
  u32(3);
  u64(tensors.length);
  u64(Object.keys(metadata).length);
  for (const [key, value] of Object.entries(metadata)) {
    text(key);
    if (typeof value === 'number' || typeof value === 'string') {
      u32(typeOf(value));
      scalar(value);
      continue;
    }
    u32(9);
    u32(typeOf(value[0]!));
    u64(value.length);
    value.forEach(scalar);
  }
  let offset = 0;
  for (const { name, shape, type, bytes } of tensors) {
    text(name);
    u32(2);
    u64(shape[1]);
    u64(shape[0]);
    u32(type);
    u64(offset);
    offset += Math.ceil(bytes / 32) * 32;
  }
  const header = Buffer.concat(parts);
  return Buffer.concat([header, Buffer.alloc(((32 - (header.length % 32)) % 32) + offset)]);
}
