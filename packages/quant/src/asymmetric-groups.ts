import { IntFlashError } from '@int-flash/ops';
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
 * @throws {IntFlashError} `ERR_ARG_TYPE`, `ERR_ARG_RANGE`, `ERR_SHAPE`, `ERR_NONFINITE`.
 */
export function quantizeAsymmetricGroups(input: FloatInput, dim: number, shape: GroupShape): AsymmetricGroups {
  const { bits, tokens: groupTokens, channels: groupChannels } = shape;
  if (![4, 8].includes(bits)) throw new IntFlashError('ERR_ARG_RANGE', `Expected bits to be 4 or 8, got ${bits}`);
  for (const side of [groupTokens, groupChannels]) {
    if (!Number.isInteger(side) || side < 1)
      throw new IntFlashError(
        'ERR_ARG_RANGE',
        `Expected a group of at least 1 by 1, got ${groupTokens} by ${groupChannels}`,
      );
  }
  const data = readFloatInput(input);
  const tokens = countRows(data.length, dim);
  maxAbs(data, 0, data.length); // throws on NaN and ±Infinity
  const across = Math.ceil(dim / groupChannels);
  const groups = Math.ceil(tokens / groupTokens) * across;
  const minima = new Float32Array(groups).fill(Infinity);
  const maxima = new Float32Array(groups).fill(-Infinity);
  const groupOf = (i: number) => groupIndex(i, dim, groupTokens, groupChannels, across);
  for (let i = 0; i < data.length; i++) {
    const g = groupOf(i);
    if (data[i]! < minima[g]!) minima[g] = data[i]!;
    if (data[i]! > maxima[g]!) maxima[g] = data[i]!;
  }
  const levels = 2 ** bits - 1;
  const scales = maxima.map((max, g) => Math.max((max - minima[g]!) / levels, MIN_SCALE));
  const codes = new Uint8Array(bits === 8 ? data.length : (data.length + 1) >> 1);
  for (let i = 0; i < data.length; i++) {
    const g = groupOf(i);
    const code = Math.min(roundHalfEven((data[i]! - minima[g]!) / scales[g]!), levels);
    if (bits === 8) codes[i] = code;
    else codes[i >> 1]! |= code << ((i & 1) * 4);
  }
  return { bits, tokens: groupTokens, channels: groupChannels, codes, count: data.length, scales, minima };
}

/** The numbers the codes stand for, rounded to float32. */
export function dequantizeAsymmetricGroups(groups: AsymmetricGroups, dim: number): Float32Array {
  const { bits, codes, count, scales, minima } = groups;
  const across = Math.ceil(dim / groups.channels);
  const out = new Float32Array(count);
  for (let i = 0; i < count; i++) {
    const g = groupIndex(i, dim, groups.tokens, groups.channels, across);
    const code = bits === 8 ? codes[i]! : (codes[i >> 1]! >> ((i & 1) * 4)) & 15;
    out[i] = saturate(minima[g]! + code * scales[g]!);
  }
  return out;
}

function groupIndex(i: number, dim: number, groupTokens: number, groupChannels: number, across: number): number {
  const token = Math.floor(i / dim);
  return Math.floor(token / groupTokens) * across + Math.floor((i - token * dim) / groupChannels);
}
