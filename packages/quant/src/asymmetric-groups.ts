import { hostArray } from '@int-flash/ops';
import {
  checkCount,
  checkLength,
  checkNumberChoice,
  type FieldReaders,
  float32Array,
  readFields,
  uint8Array,
} from './argument-check.js';
import { countRows, type FloatInput, maxAbs, readFloatInput } from './float-input.js';
import { roundHalfEven } from './round-half-even.js';
import { MIN_SCALE, saturate } from './symmetric-scale.js';

/** Which elements share a scale and a minimum: `tokens` rows by `channels` columns, cut short at the edges. */
export interface GroupShape {
  readonly bits: 4 | 8;
  readonly tokens: number;
  readonly channels: number;
}

/** Unsigned codes over groups; an element stands for `minima[g] + code * scales[g]`. */
export interface AsymmetricGroups extends GroupShape {
  /** [tokens, dim] codes: a byte each for 8 bits in [0, 255], two a byte for 4 bits in [0, 15], low nibble first. */
  readonly codes: Uint8Array;
  /** Elements that `codes` holds. */
  readonly count: number;
  /** [token groups, channel groups], > 0. */
  readonly scales: Float32Array;
  /** [token groups, channel groups]. */
  readonly minima: Float32Array;
}

/**
 * Quantizes groups over the span they really cover, `scale = (max - min) / (2^bits - 1)`, as KIVI does (arXiv:2402.02750): worth it where
 * a group does not straddle 0, such as a key channel with a large offset.
 *
 * Guarantees `|x - (min + code * scale)| <= scale / 2` (up to float32 rounding of the group's largest magnitude).
 * @param input [tokens, dim], row-major, finite.
 * @throws {IntFlashError} `ERR_ARG_TYPE`, `ERR_ARG_RANGE`, `ERR_SHAPE`, `ERR_BUFFER_*`, `ERR_OOM`, `ERR_NONFINITE`.
 */
export function quantizeAsymmetricGroups(input: FloatInput, dim: number, shape: GroupShape): AsymmetricGroups {
  const { bits, tokens: groupTokens, channels: groupChannels } = readFields<GroupShape>(shape, SHAPE);
  const data = readFloatInput(input);
  const tokens = countRows(data.length, dim);
  maxAbs(data, 0, data.length); // throws on NaN and ±Infinity
  const across = Math.ceil(dim / groupChannels);
  const groups = Math.ceil(tokens / groupTokens) * across;
  const minima = hostArray(Float32Array, groups, 'minima').fill(Infinity);
  const maxima = hostArray(Float32Array, groups, 'maxima').fill(-Infinity);
  const groupOf = (i: number) => groupIndex(i, dim, groupTokens, groupChannels, across);
  for (let i = 0; i < data.length; i++) {
    const g = groupOf(i);
    if (data[i]! < minima[g]!) minima[g] = data[i]!;
    if (data[i]! > maxima[g]!) maxima[g] = data[i]!;
  }
  const levels = 2 ** bits - 1;
  const scales = maxima.map((max, g) => Math.max((max - minima[g]!) / levels, MIN_SCALE));
  const codes = hostArray(Uint8Array, codeBytes(data.length, bits), 'codes');
  for (let i = 0; i < data.length; i++) {
    const g = groupOf(i);
    const code = Math.min(roundHalfEven((data[i]! - minima[g]!) / scales[g]!), levels);
    if (bits === 8) codes[i] = code;
    else codes[Math.floor(i / 2)]! |= code << ((i & 1) * 4);
  }
  return { bits, tokens: groupTokens, channels: groupChannels, codes, count: data.length, scales, minima };
}

/**
 * The numbers the codes stand for, rounded to float32.
 *
 * @throws {IntFlashError} `ERR_ARG_TYPE`, `ERR_ARG_RANGE`, `ERR_SHAPE` when codes, scales and minima do not fit each other, `ERR_BUFFER_*`, `ERR_OOM`.
 */
export function dequantizeAsymmetricGroups(groups: AsymmetricGroups, dim: number): Float32Array {
  const given = readFields<AsymmetricGroups>(groups, GROUPS);
  const { bits, codes, count, scales, minima } = given;
  const tokens = countRows(count, dim, 'codes');
  const across = Math.ceil(dim / given.channels);
  const expected = Math.ceil(tokens / given.tokens) * across;
  checkLength(codes, 'codes', codeBytes(count, bits), `${count} codes of ${bits} bits`);
  checkLength(scales, 'scales', expected, 'as many groups');
  checkLength(minima, 'minima', expected, 'as many groups');
  const out = hostArray(Float32Array, count, 'the numbers that codes stand for');
  for (let i = 0; i < count; i++) {
    const g = groupIndex(i, dim, given.tokens, given.channels, across);
    const code = bits === 8 ? codes[i]! : (codes[Math.floor(i / 2)]! >> ((i & 1) * 4)) & 15;
    out[i] = saturate(minima[g]! + code * scales[g]!);
  }
  return out;
}

const SHAPE: FieldReaders<GroupShape> = {
  bits: (value, name) => checkNumberChoice(value, name, [4, 8]),
  tokens: checkCount,
  channels: checkCount,
};
const GROUPS: FieldReaders<AsymmetricGroups> = {
  ...SHAPE,
  codes: uint8Array,
  count: (value, name) => checkCount(value, name, 0),
  scales: float32Array,
  minima: float32Array,
};

function codeBytes(count: number, bits: 4 | 8): number {
  return bits === 8 ? count : Math.ceil(count / 2);
}

function groupIndex(i: number, dim: number, groupTokens: number, groupChannels: number, across: number): number {
  const token = Math.floor(i / dim);
  return Math.floor(token / groupTokens) * across + Math.floor((i - token * dim) / groupChannels);
}
