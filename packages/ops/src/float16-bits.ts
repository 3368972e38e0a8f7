import { getFloat16, setFloat16 } from '@petamoriken/float16';

// Node 24 has DataView float16 accessors of its own; until then the library's serve.
const view = new DataView(new ArrayBuffer(2));

/** The value of IEEE 754 binary16 `bits`. */
export function float16BitsToNumber(bits: number): number {
  view.setUint16(0, bits);
  return getFloat16(view, 0);
}

/** Bits of the binary16 nearest to `value`, ties to even. */
export function numberToFloat16Bits(value: number): number {
  setFloat16(view, 0, value);
  return view.getUint16(0);
}

const ROUNDER = 1.5 * 2 ** 52; // adding it rounds a float64 to an integer, ties to even
const SMALLEST_NORMAL = 0x38800000; // 2^-14, as float32 bits
const FIRST_INFINITE = 0x477ff000; // 65520, half a step above the largest: ties to even, so up
const scratch = new Float32Array(1);
const scratchBits = new Uint32Array(scratch.buffer);

/** The same for a value that is a float32, some hundred times faster: a cache converts each key and value. */
export function float32ToFloat16Bits(value: number): number {
  scratch[0] = value;
  const bits = scratchBits[0]!;
  const sign = (bits >>> 16) & 0x8000;
  const magnitude = bits & 0x7fffffff;
  if (magnitude >= FIRST_INFINITE) return magnitude > 0x7f800000 ? numberToFloat16Bits(value) : sign | 0x7c00;
  if (magnitude >= SMALLEST_NORMAL) {
    const rounded = magnitude + 0xfff + ((magnitude >>> 13) & 1);
    return sign | ((rounded >>> 13) - (112 << 10)); // exponents count from 15, not from 127
  }
  return sign | (Math.abs(value) * 2 ** 24 + ROUNDER - ROUNDER);
}
