import { type FloatInput, maxAbs, readFloatInput } from './float-input.js';
import { encode } from './per-token-int8.js';
import { MAX_INT8_CODE, saturate, symmetricScale } from './symmetric-scale.js';

/** INT8 codes that share one scale: `values * scale`. */
export interface PerTensorInt8 {
  /** Shaped like the input, each in [-127, 127]. */
  readonly values: Int8Array;
  /** float32, in the unit of the input, > 0. */
  readonly scale: number;
}

/**
 * One scale for everything: `scale = max|x| / 127`; guarantees `|x - code * scale| <= scale / 2` (up to float32 rounding).
 *
 * INT-FlashAttention quantizes V so, one KV head at a time (arXiv:2409.16997).
 * @param input Any shape, finite.
 * @param range The magnitude that gets code 127, float32 > 0, as {@link calibrateInt8} picks it; larger values saturate and the bound
 *   holds for the others. Default: the maximum.
 * @throws {IntFlashError} `ERR_ARG_TYPE`, `ERR_NONFINITE`.
 */
export function quantizePerTensorInt8(input: FloatInput, range?: number): PerTensorInt8 {
  const data = readFloatInput(input);
  const maximum = maxAbs(data, 0, data.length);
  const scale = symmetricScale(range ?? maximum, MAX_INT8_CODE);
  const values = new Int8Array(data.length);
  if (range === undefined || range >= maximum) encode(data, values, 0, data.length, scale);
  else {
    const clipped = data.map((x) => Math.min(Math.max(x, -range), range));
    encode(clipped, values, 0, data.length, scale);
  }
  return { values, scale };
}

/** The numbers the codes stand for, rounded to float32. */
export function dequantizePerTensorInt8({ values, scale }: PerTensorInt8): Float32Array {
  return Float32Array.from(values, (code) => saturate(code * scale));
}
