import { hostArray, type Int4Group, IntFlashError } from '@int-flash/ops';
import {
  checkArray,
  checkNumberChoice,
  type FieldReaders,
  float32Array,
  readFields,
  uint8Array,
} from './argument-check.js';
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
 * @throws {IntFlashError} `ERR_ARG_TYPE`, `ERR_ARG_RANGE`, `ERR_SHAPE`, `ERR_BUFFER_*`, `ERR_OOM`, `ERR_NONFINITE`.
 */
export function quantizePerGroupInt4(input: FloatInput, dim: number, group: Int4Group): PerGroupInt4 {
  checkNumberChoice(group, 'group', INT4_GROUPS);
  const data = readFloatInput(input);
  countRows(data.length, dim);
  if (dim % group !== 0)
    throw new IntFlashError('ERR_SHAPE', `Expected dim to be a multiple of group ${group}, got ${dim}`);
  const codes = hostArray(Int8Array, data.length, 'codes');
  const scales = hostArray(Float32Array, data.length / group, 'scales');
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
 * @throws {IntFlashError} `ERR_ARG_TYPE`, `ERR_ARG_RANGE` (also where `out` shares memory with the codes or scales), `ERR_SHAPE` when codes, scales and `out` do
 *   not fit each other, `ERR_BUFFER_*`, `ERR_OOM`.
 */
export function dequantizePerGroupInt4(codes: PerGroupInt4, out?: Float32Array): Float32Array {
  const { packed, scales, group } = readFields<PerGroupInt4>(codes, GROUP_READERS);
  const count = scales.length * group;
  checkPacked(packed, count);
  if (out === undefined)
    return widen(packed, scales, group, hostArray(Float32Array, count, 'the numbers that codes stand for'));
  const target = checkArray(out, 'out', Float32Array);
  if (target.length < count)
    throw new IntFlashError('ERR_SHAPE', `Expected out to have room for ${count} numbers, got ${target.length}`);
  // What is written first would be read afterwards.
  if (overlap(target, packed) || overlap(target, scales)) {
    throw new IntFlashError(
      'ERR_ARG_RANGE',
      'Expected out beside the memory of packed and scales, got memory that they share',
    );
  }
  widen(packed, scales, group, target);
  return out;
}

/** How the fields of {@link PerGroupInt4} are judged. */
export const GROUP_READERS: FieldReaders<PerGroupInt4> = {
  packed: uint8Array,
  scales: float32Array,
  group: (value, name) => checkNumberChoice(value, name, INT4_GROUPS),
};

function overlap(a: Float32Array, b: Float32Array | Uint8Array): boolean {
  return (
    a.buffer === b.buffer && a.byteOffset < b.byteOffset + b.byteLength && b.byteOffset < a.byteOffset + a.byteLength
  );
}

function widen(packed: Uint8Array, scales: Float32Array, group: Int4Group, out: Float32Array): Float32Array {
  for (let run = 0, byte = 0; run < scales.length; run++) {
    const scale = scales[run]!;
    const to = (run + 1) * group;
    for (let i = to - group; i < to; i += 2, byte++) {
      const codes = packed[byte]!;
      out[i] = ((codes << 28) >> 28) * scale; // the shift back copies the sign
      out[i + 1] = ((codes << 24) >> 28) * scale;
    }
    if (scale > LARGE_SCALE) for (let i = to - group; i < to; i++) out[i] = saturate(out[i]!);
  }
  return out;
}
