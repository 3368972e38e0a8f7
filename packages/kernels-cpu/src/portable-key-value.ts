import { log2Weight } from '@int-flash/quant';
import { FIELD, packLoneRow, packRowPair } from './portable-dot-products.js';

/** Keys a tile: P is rounded against the maximum of each (docs/arithmetic.md, Tiles). */
export const TILE_KEYS = 128;

/** The keys and values of one head in the order the inner loops read them. */
export interface KeyValueHead {
  /** True: packed INT8 codes; false: float32 numbers. */
  readonly keysAreCodes: boolean;
  readonly valuesAreCodes: boolean;
  /** Codes: [pairs of keys, headDim], each element two codes; floats: [keys, headDim]. */
  readonly keyRows: Float64Array;
  /** [tiles, headDimV / 2 (codes: pairs of channels) or headDimV, TILE_KEYS]. */
  readonly valueColumns: Float64Array;
  /** [keys]; ones for floats. */
  readonly keyScales: Float32Array;
  /** log2 of each key's value weight, added to its score; zeros where values carry no token weight. */
  readonly logWeights: Float32Array;
  /** f32(1 / weight), which the row sum multiplies by. */
  readonly inverseWeights: Float32Array;
  /** f32(channel scale / largest code of P), [headDimV]; absent for float values. */
  readonly epilogue: Float32Array | undefined;
}

/** float64 elements that `keyRows` needs: rows are taken four at a time, so there is room for a last short group. */
export function keyRowsLength(keys: number, headDim: number, codes: boolean): number {
  const rows = Math.ceil(keys / 4) * 4;
  return (codes ? rows / 2 : rows) * headDim;
}

export function valueColumnsLength(keys: number, headDimV: number, codes: boolean): number {
  return Math.ceil(keys / TILE_KEYS) * TILE_KEYS * (codes ? headDimV / 2 : headDimV);
}

/** Packs keys [from, to) of `codes`, [keys, headDim] from element `start`; `from` is even. */
export function packKeyCodes(
  codes: Int8Array,
  start: number,
  from: number,
  to: number,
  headDim: number,
  out: Float64Array,
): void {
  for (let key = from; key < to; key += 2) {
    const row = start + key * headDim;
    const at = (key / 2) * headDim;
    if (key + 1 < to) packRowPair(codes, row, row + headDim, headDim, out, at);
    else packLoneRow(codes, row, headDim, out, at);
  }
}

/** Packs the values of one tile, whose first row starts at element `start` of `codes`. */
export function packValueCodes(
  codes: Int8Array,
  start: number,
  rows: number,
  headDimV: number,
  out: Float64Array,
  at: number,
): void {
  for (let d = 0; d < headDimV; d += 2) {
    const column = at + (d / 2) * TILE_KEYS;
    for (let row = 0, i = start + d; row < rows; row++, i += headDimV)
      out[column + row] = codes[i]! + codes[i + 1]! * FIELD;
  }
}

/** Transposes the values of one tile, whose first row starts at element `start` of `values`. */
export function packValueFloats(
  values: Float32Array,
  start: number,
  rows: number,
  headDimV: number,
  out: Float64Array,
  at: number,
): void {
  for (let d = 0; d < headDimV; d++) {
    const column = at + d * TILE_KEYS;
    for (let row = 0, i = start + d; row < rows; row++, i += headDimV) out[column + row] = values[i]!;
  }
}

const MIN_WEIGHT = 2 ** -100; // an all-zero value row has scale 2^-126, and sums of 1/w must stay within float32

/** What value weights become in the scores and in the row sum. */
export function readWeights(weights: Float32Array): Pick<KeyValueHead, 'logWeights' | 'inverseWeights'> {
  const logWeights = new Float32Array(weights.length);
  const inverseWeights = new Float32Array(weights.length);
  for (let key = 0; key < weights.length; key++) {
    const weight = Math.max(weights[key]!, MIN_WEIGHT);
    logWeights[key] = log2Weight(weight);
    inverseWeights[key] = 1 / weight;
  }
  return { logWeights, inverseWeights };
}

/** Values without token weights. */
export function noWeights(keys: number): Pick<KeyValueHead, 'logWeights' | 'inverseWeights'> {
  return { logWeights: new Float32Array(keys), inverseWeights: new Float32Array(keys).fill(1) };
}
