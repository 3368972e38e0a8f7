import { float16BitsToNumber, float32ToFloat16Bits } from './float16-bits.js';

/** Element types of the floating-point inputs. `float16` and `bfloat16` travel as their bits in a `Uint16Array`. */
export type FloatType = 'float32' | 'float16' | 'bfloat16';

const scratch = new Float32Array(1);
const scratchBits = new Uint32Array(scratch.buffer);

/** The value of bfloat16 `bits`: the upper half of a float32, so every bfloat16 is exact. */
export function bfloat16BitsToNumber(bits: number): number {
  scratchBits[0] = bits << 16;
  return scratch[0]!;
}

/** Bits of the bfloat16 nearest to `value`, ties to even; NaN stays NaN, overflow goes to infinity. */
export function numberToBfloat16Bits(value: number): number {
  scratch[0] = value;
  const bits = scratchBits[0]!;
  if ((bits & 0x7fffffff) > 0x7f800000) return ((bits >>> 16) | 0x40) & 0xffff; // the quiet bit keeps a NaN whose payload is cut off
  return ((bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16) & 0xffff;
}

let float16Table: Float32Array | undefined;

/** All 65,536 float16 values by their bits (256 KiB, built on first use): one load an element instead of bit arithmetic. */
function float16Values(): Float32Array {
  if (!float16Table) {
    float16Table = new Float32Array(65536);
    for (let bits = 0; bits < 65536; bits++) float16Table[bits] = float16BitsToNumber(bits);
  }
  return float16Table;
}

/** Widens `source` to float32. Exact: both 16-bit formats are subsets of float32. */
export function toFloat32(
  source: Float32Array | Uint16Array,
  type: FloatType,
  out = new Float32Array(source.length),
): Float32Array {
  if (type === 'float32') out.set(source as Float32Array);
  else if (type === 'float16') {
    const values = float16Values();
    for (let i = 0; i < source.length; i++) out[i] = values[source[i]!]!;
  } else {
    const bits = new Uint32Array(out.buffer, out.byteOffset, out.length);
    for (let i = 0; i < source.length; i++) bits[i] = source[i]! << 16;
  }
  return out;
}

/** Rounds float32 to the 16-bit format `type`, ties to even. */
export function fromFloat32(source: Float32Array, type: 'float16' | 'bfloat16'): Uint16Array {
  const out = new Uint16Array(source.length);
  const convert = type === 'float16' ? float32ToFloat16Bits : numberToBfloat16Bits;
  for (let i = 0; i < source.length; i++) out[i] = convert(source[i]!);
  return out;
}
