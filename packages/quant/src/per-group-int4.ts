import { type Int4Group, IntFlashError } from '@int-flash/ops';
import { countRows, type FloatInput, maxAbs, readFloatInput } from './float-input.js';
import { checkPacked, packInt4 } from './int4-packing.js';
import { encode } from './per-token-int8.js';
import { LARGE_SCALE, MAX_INT4_CODE, saturate, symmetricScale } from './symmetric-scale.js';

/** Elements that share an INT4 scale. */
export const INT4_GROUPS = [32, 64, 128] as const satisfies readonly Int4Group[];
export type { Int4Group };

/** INT4 rows cut into groups of neighbouring channels; group g of row i stands for `codes * scales[i, g]`. */
export interface PerGroupInt4 {
  /** [tokens, dim] codes in [-7, 7], two a byte along the whole array, low nibble first. */
  readonly packed: Uint8Array;
  /** [tokens, dim / group], > 0. */
  readonly scales: Float32Array;
  readonly group: Int4Group;
}

/**
 * One INT4 scale for each `group` channels of a token: `scale = max|group| / 7`; guarantees `|x - code * scale| <= scale / 2`
 * (up to float32 rounding).
 *
 * @param input [tokens, dim], row-major, finite.
 * @param dim   Row length, a multiple of `group`.
 * @throws {IntFlashError} `ERR_ARG_TYPE`, `ERR_ARG_RANGE`, `ERR_SHAPE`, `ERR_NONFINITE`.
 */
export function quantizePerGroupInt4(input: FloatInput, dim: number, group: Int4Group): PerGroupInt4 {
  if (!INT4_GROUPS.includes(group)) {
    throw new IntFlashError('ERR_ARG_RANGE', `Expected group to be one of ${INT4_GROUPS.join(', ')}, got ${group}`);
  }
  const data = readFloatInput(input);
  countRows(data.length, dim);
  if (dim % group !== 0)
    throw new IntFlashError('ERR_SHAPE', `Expected dim to be a multiple of group ${group}, got ${dim}`);
  const codes = new Int8Array(data.length);
  const scales = new Float32Array(data.length / group);
  for (let g = 0; g < scales.length; g++) {
    scales[g] = symmetricScale(maxAbs(data, g * group, (g + 1) * group), MAX_INT4_CODE);
    encode(data, codes, g * group, (g + 1) * group, scales[g]!);
  }
  return { packed: packInt4(codes), scales, group };
}

/**
 * The numbers the codes stand for, rounded to float32.
 *
 * @param out Written from its start, as long as the codes or longer; new where absent.
 * @returns `out`.
 * @throws {IntFlashError} `ERR_SHAPE` when codes and scales do not fit each other.
 */
export function dequantizePerGroupInt4(
  { packed, scales, group }: PerGroupInt4,
  out: Float32Array = new Float32Array(scales.length * group),
): Float32Array {
  checkPacked(packed, scales.length * group);
  for (let run = 0; run < scales.length; run++) {
    const scale = scales[run]!;
    const to = (run + 1) * group;
    for (let i = to - group; i < to; i += 2) {
      const codes = packed[i >> 1]!;
      out[i] = ((codes << 28) >> 28) * scale; // the shift back copies the sign
      out[i + 1] = ((codes << 24) >> 28) * scale;
    }
    if (scale > LARGE_SCALE) for (let i = to - group; i < to; i++) out[i] = saturate(out[i]!);
  }
  return out;
}
