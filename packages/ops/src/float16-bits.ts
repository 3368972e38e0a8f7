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
