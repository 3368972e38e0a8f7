// What a GGUF file has before its tensors' bytes: tests and benchmarks write such files, the library only reads them.

const TYPES = { uint32: 4, int32: 5, float32: 6, bool: 7, string: 8, uint64: 10 };
const LIST = 9;

/**
 * Behind it, each tensor's bytes begin at the next multiple of `alignment`.
 *
 * @param metadata `[key, type, value]`, or a list of values of that type.
 * @param tensors  `shape` is row-major, as everywhere but in the file; `bytes` is their number.
 * @returns {Buffer}
 */
export function ggufHeader(metadata, tensors, { version = 3, alignment = 32 } = {}) {
  const parts = [Buffer.from('GGUF'), scalar('uint32', version), scalar('uint64', tensors.length)];
  parts.push(scalar('uint64', metadata.length));
  for (const [key, type, value] of metadata) {
    parts.push(scalar('string', key));
    if (Array.isArray(value)) parts.push(scalar('uint32', LIST), scalar('uint32', TYPES[type]));
    else parts.push(scalar('uint32', TYPES[type]), scalar(type, value));
    if (Array.isArray(value)) parts.push(scalar('uint64', value.length), ...value.map((each) => scalar(type, each)));
  }
  let offset = 0;
  for (const { name, shape, type, bytes } of tensors) {
    parts.push(scalar('string', name), scalar('uint32', shape.length));
    parts.push(...[...shape].reverse().map((size) => scalar('uint64', size)));
    parts.push(scalar('uint32', type), scalar('uint64', offset));
    offset += bytes + padding(bytes, alignment);
  }
  const header = Buffer.concat(parts);
  return Buffer.concat([header, Buffer.alloc(padding(header.length, alignment))]);
}

/** Bytes from `length` to the next multiple of `alignment`. */
export function padding(length, alignment = 32) {
  return (alignment - (length % alignment)) % alignment;
}

function scalar(type, value) {
  switch (type) {
    case 'string':
      return Buffer.concat([scalar('uint64', Buffer.byteLength(value)), Buffer.from(value)]);
    case 'uint64':
      return Buffer.from(BigUint64Array.of(BigInt(value)).buffer);
    case 'bool':
      return Buffer.from([value]);
    default:
      return Buffer.from({ uint32: Uint32Array, int32: Int32Array, float32: Float32Array }[type].of(value).buffer);
  }
}
