import { checkNumber, hostArray, wrongType } from '@int-flash/ops';
import { int8Array, readFields } from './argument-check.js';
import { type FloatInput, maxAbs, readFloatInput } from './float-input.js';
import { encode } from './per-token-int8.js';
import { MAX_FLOAT32, MAX_INT8_CODE, saturate, symmetricScale } from './symmetric-scale.js';

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
 * @param range The magnitude that gets code 127, float32 >= 0, as {@link calibrateInt8} picks it; larger values saturate and the bound
 *   holds for the others. Default: the maximum.
 * @throws {IntFlashError} `ERR_ARG_TYPE`, `ERR_ARG_RANGE`, `ERR_BUFFER_*`, `ERR_OOM`, `ERR_NONFINITE`.
 */
export function quantizePerTensorInt8(input: FloatInput, range?: number): PerTensorInt8 {
  if (range !== undefined && typeof range !== 'number') throw wrongType('range to be a number', range);
  const data = readFloatInput(input);
  const maximum = maxAbs(data, 0, data.length);
  const scale = symmetricScale(checkNumber(range, 'range', maximum, 0, MAX_FLOAT32), MAX_INT8_CODE);
  const values = hostArray(Int8Array, data.length, 'codes');
  if (range === undefined || range >= maximum) encode(data, values, 0, data.length, scale);
  else {
    const clipped = data.map((x) => Math.min(Math.max(x, -range), range));
    encode(clipped, values, 0, data.length, scale);
  }
  return { values, scale };
}

/**
 * The numbers the codes stand for, rounded to float32.
 *
 * @throws {IntFlashError} `ERR_ARG_TYPE`, `ERR_ARG_RANGE` unless the scale is positive and finite, `ERR_BUFFER_*`, `ERR_OOM`.
 */
export function dequantizePerTensorInt8(codes: PerTensorInt8): Float32Array {
  const { values, scale } = readFields<PerTensorInt8>(codes, { values: int8Array, scale: positiveNumber });
  const out = hostArray(Float32Array, values.length, 'the numbers that codes stand for');
  for (let i = 0; i < values.length; i++) out[i] = saturate(values[i]! * scale);
  return out;
}

function positiveNumber(value: unknown, name: string): number {
  if (typeof value !== 'number') throw wrongType(`${name} to be a number`, value);
  return checkNumber(value, name, 1, Number.MIN_VALUE, Number.MAX_VALUE);
}
