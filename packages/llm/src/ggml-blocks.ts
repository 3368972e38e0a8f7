import { toFloat32 } from '@int-flash/ops';

/** The float16 that lies `offset` bytes into each block of `size` bytes, as float32. */
export function blockFloats(bytes: Uint8Array, size: number, offset = 0): Float32Array {
  const bits = new Uint16Array(bytes.length / size);
  for (let block = 0, at = offset; block < bits.length; block++, at += size)
    bits[block] = bytes[at]! | (bytes[at + 1]! << 8);
  return toFloat32(bits, 'float16');
}
