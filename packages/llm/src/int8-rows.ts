const MAX_CODE = 127;
const MIN_SCALE = 2 ** -126; // what quantizers give a row of zeros
const LARGEST_FLOAT = 3.4028234663852886e38;
const ROUNDER = 1.5 * 2 ** 52; // adding it rounds a float64 to an integer, ties to even

/**
 * The INT8 scale of `data[from … from + dim)` less `offsets[offsetFrom …]`, as quant's quantizePerTokenInt8 has it, without
 * memory of its own: the cache does this for every head of every token.
 *
 * @param offsets Subtracted in float32; undefined for none.
 * @returns NaN when the row holds NaN or Infinity.
 */
export function int8Scale(
  data: Float32Array,
  from: number,
  dim: number,
  offsets: Float32Array | undefined,
  offsetFrom: number,
): number {
  let largest = 0;
  for (let d = 0; d < dim; d++) {
    const x = offsets ? Math.fround(data[from + d]! - offsets[offsetFrom + d]!) : data[from + d]!;
    const magnitude = x < 0 ? -x : x;
    if (!(magnitude <= LARGEST_FLOAT)) return Number.NaN;
    if (magnitude > largest) largest = magnitude;
  }
  return Math.max(Math.fround(largest / MAX_CODE), MIN_SCALE);
}

/** Writes that row's codes under `scale` to `codes[to …]`. */
export function writeInt8Row(
  data: Float32Array,
  from: number,
  dim: number,
  offsets: Float32Array | undefined,
  offsetFrom: number,
  scale: number,
  codes: Int8Array,
  to: number,
): void {
  for (let d = 0; d < dim; d++) {
    const x = offsets ? Math.fround(data[from + d]! - offsets[offsetFrom + d]!) : data[from + d]!;
    codes[to + d] = Math.fround(x / scale) + ROUNDER - ROUNDER;
  }
}
