import { checkChoice, IntFlashError, wrongType } from '@int-flash/ops';
import { checkLength, type FieldReaders, readFields } from './argument-check.js';
import { type AsymmetricGroups, dequantizeAsymmetricGroups, quantizeAsymmetricGroups } from './asymmetric-groups.js';
import { countRows, type FloatInput, readFloatInput } from './float-input.js';
import { dequantizePerChannelInt8, type PerChannelInt8, quantizePerChannelInt8 } from './per-channel-int8.js';
import { dequantizePerTokenInt4, type PerTokenInt4, quantizePerTokenInt4 } from './per-token-int4.js';
import { dequantizePerTokenInt8, type PerTokenInt8, quantizePerTokenInt8 } from './per-token-int8.js';

/**
 * How a KV cache may be stored; error bounds in units of the step `s` that applies to the element.
 *
 * | format | K | V | bound | bytes a token and head of 128 (K + V) |
 * |---|---|---|---|---|
 * | `int8-per-token` | a scale a token | a scale a token | s/2, s = max of the token / 127 | 264 |
 * | `int4-per-token` | a scale a token | a scale a token | s/2, s = max of the token / 7 | 136 |
 * | `int8-per-channel` (arXiv:2601.04719) | a scale a channel over all tokens | the same | s/2, s = max of the channel / 127 | 256 |
 * | `kivi-int8`, `kivi-int4` (after arXiv:2402.02750, which has 2 bits) | per channel over 32 tokens, asymmetric | per token over 32 channels, asymmetric | s/2, s = (max - min) / 255 or 15 | 320, 192 |
 *
 * A growing cache appends to the per-token formats; per channel needs the tokens of a group together, so KIVI keeps the youngest ones
 * in float until a group is full. `KvCacheView` of the backends reads the two per-token formats; the others are for storage and study.
 */
export const KV_CACHE_FORMATS = [
  'int8-per-token',
  'int4-per-token',
  'int8-per-channel',
  'kivi-int8',
  'kivi-int4',
] as const;
export type KvCacheFormat = (typeof KV_CACHE_FORMATS)[number];

/** Tokens (K) or channels (V) that share a KIVI scale and zero point. */
export const KIVI_GROUP = 32;

export type QuantizedKv =
  | {
      readonly format: 'int8-per-token';
      readonly dim: number;
      readonly keys: PerTokenInt8;
      readonly values: PerTokenInt8;
    }
  | {
      readonly format: 'int4-per-token';
      readonly dim: number;
      readonly keys: PerTokenInt4;
      readonly values: PerTokenInt4;
    }
  | {
      readonly format: 'int8-per-channel';
      readonly dim: number;
      readonly keys: PerChannelInt8;
      readonly values: PerChannelInt8;
    }
  | {
      readonly format: 'kivi-int8' | 'kivi-int4';
      readonly dim: number;
      readonly keys: AsymmetricGroups;
      readonly values: AsymmetricGroups;
    };

/**
 * Quantizes one head's keys and values.
 *
 * @param keys `[tokens, dim]`, as `values`, row-major, finite, equally long. For KIVI the number of tokens may be anything (the last group of K
 *   is shorter); so may `dim`.
 * @throws {IntFlashError} `ERR_ARG_TYPE`, `ERR_ARG_RANGE`, `ERR_SHAPE`, `ERR_BUFFER_*`, `ERR_OOM`, `ERR_NONFINITE`.
 */
export function quantizeKv(format: KvCacheFormat, keys: FloatInput, values: FloatInput, dim: number): QuantizedKv {
  const chosen = checkFormat(format, 'format');
  const [k, v] = [readFloatInput(keys), readFloatInput(values)];
  countRows(k.length, dim);
  if (v.length !== k.length)
    throw new IntFlashError('ERR_SHAPE', `Expected as many values as keys, ${k.length}, got ${v.length}`);
  switch (chosen) {
    case 'int8-per-token':
      return { format: chosen, dim, keys: quantizePerTokenInt8(k, dim), values: quantizePerTokenInt8(v, dim) };
    case 'int4-per-token':
      return { format: chosen, dim, keys: quantizePerTokenInt4(k, dim), values: quantizePerTokenInt4(v, dim) };
    case 'int8-per-channel':
      return { format: chosen, dim, keys: quantizePerChannelInt8(k, dim), values: quantizePerChannelInt8(v, dim) };
    default: {
      const bits = chosen === 'kivi-int8' ? 8 : 4;
      return {
        format: chosen,
        dim,
        keys: quantizeAsymmetricGroups(k, dim, { bits, tokens: KIVI_GROUP, channels: 1 }),
        values: quantizeAsymmetricGroups(v, dim, { bits, tokens: 1, channels: KIVI_GROUP }),
      };
    }
  }
}

/**
 * The keys and values that the codes stand for, rounded to float32; [tokens, dim] each.
 *
 * @throws {IntFlashError} `ERR_ARG_TYPE`, `ERR_ARG_RANGE`, `ERR_SHAPE` when codes, scales and `dim` do not fit each other or there are not as
 *   many values as keys, `ERR_BUFFER_*`, `ERR_OOM`.
 */
export function dequantizeKv(kv: QuantizedKv): { keys: Float32Array; values: Float32Array } {
  const given = readFields<QuantizedKv>(kv, FIELDS);
  const [keys, values] = dequantizeBoth(given);
  countRows(keys.length, given.dim, 'keys');
  checkLength(values, 'values', keys.length, 'as many keys');
  return { keys, values };
}

function dequantizeBoth(kv: QuantizedKv): [Float32Array, Float32Array] {
  switch (kv.format) {
    case 'int8-per-token':
      return [dequantizePerTokenInt8(kv.keys, kv.dim), dequantizePerTokenInt8(kv.values, kv.dim)];
    case 'int4-per-token':
      return [dequantizePerTokenInt4(kv.keys, kv.dim), dequantizePerTokenInt4(kv.values, kv.dim)];
    case 'int8-per-channel':
      return [dequantizePerChannelInt8(kv.keys), dequantizePerChannelInt8(kv.values)];
    default:
      return [dequantizeAsymmetricGroups(kv.keys, kv.dim), dequantizeAsymmetricGroups(kv.values, kv.dim)];
  }
}

// What the fields hold is judged by the format's own functions.
const FIELDS = { format: checkFormat, dim: anyNumber, keys: anyObject, values: anyObject } as FieldReaders<QuantizedKv>;

function checkFormat(value: unknown, name: string): KvCacheFormat {
  if (typeof value !== 'string') throw wrongType(`${name} to be a string`, value);
  return checkChoice(value, name, KV_CACHE_FORMATS, 'int8-per-token');
}

function anyNumber(value: unknown, name: string): number {
  if (typeof value !== 'number') throw wrongType(`${name} to be a number`, value);
  return value;
}

function anyObject(value: unknown, name: string): object {
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    throw wrongType(`${name} to be an object of codes and scales`, value);
  return value;
}
