import type { MaskOperand } from '@int-flash/ops';
import { exp2Polynomial } from '@int-flash/quant';
import { addPackedDots, writeFmaDots } from './portable-dot-products.js';
import { type KeyValueHead, TILE_KEYS } from './portable-key-value.js';

/** Queries a block: enough that a tile of keys fetched from memory is used well. A multiple of 4. */
export const BLOCK_ROWS = 16;
const LOG2_E = Math.fround(Math.LOG2E);
const LANES = 16; // partial row sums (docs/arithmetic.md, Tiles, step 4)
// exp2Polynomial and fma32 of quant, written out where millions of calls pass: their exact handling of double rounding, which strikes
// once in some 2^29 operations and moves a last bit, costs three times the rest. The tests hold both against each other.
const ROUNDER = 1.5 * 2 ** 52;
const [C1, C2, C3, C4] = new Float32Array(
  new Uint32Array([0x3f317096, 0x3e7601bc, 0x3d64fe23, 0x3c1d0166]).buffer,
) as unknown as [number, number, number, number];
const POWERS = Float64Array.from({ length: 126 }, (_, n) => 2 ** -n);
const fma = (a: number, b: number, c: number): number => Math.fround(a * b + c);
const MAX_FLOAT32 = (2 - 2 ** -23) * 2 ** 127;

/** What all rows of a block have in common. */
export interface BlockRules {
  readonly headDim: number;
  readonly headDimV: number;
  /** 255 or 127: P is rounded to codes 0..maxCode. 0: P stays float32. */
  readonly maxCode: number;
  /** The paper's scheme: P against the running maximum instead of the tile's. */
  readonly runningMax: boolean;
  /** 0 = off. */
  readonly softcap: number;
  readonly mask: MaskOperand | undefined;
}

/**
 * Up to {@link BLOCK_ROWS} queries that read the same keys and values, on their way through the tiles: steps 1 to 6 of docs/arithmetic.md.
 *
 * Use: set the rows (`setRow`), `absorbTile` in order, `finishRow`.
 */
export class RowBlock {
  /** [BLOCK_ROWS, headDim]: codes, or float32 numbers. */
  readonly query: Float64Array;
  /** Keys [firstKey, endKey) are inside each row's band. */
  readonly firstKey = new Float64Array(BLOCK_ROWS);
  readonly endKey = new Float64Array(BLOCK_ROWS);
  /** Element of the mask that belongs to the row and key 0. */
  readonly maskStart = new Float64Array(BLOCK_ROWS);

  readonly #rules: BlockRules;
  #rows = 0;
  readonly #scale = new Float32Array(BLOCK_ROWS); // f32(sQ · scale): natural units
  readonly #scaleLog2 = new Float32Array(BLOCK_ROWS); // f32(that · log2 e)
  readonly #scores = new Float64Array(BLOCK_ROWS * TILE_KEYS); // S, then x, then p or its codes
  readonly #products: Float64Array; // T
  readonly #out: Float32Array; // O
  readonly #max = new Float32Array(BLOCK_ROWS); // M
  readonly #sum = new Float32Array(BLOCK_ROWS); // l
  readonly #keep = new Float32Array(BLOCK_ROWS); // alpha
  readonly #take = new Float32Array(BLOCK_ROWS); // beta
  readonly #lanes = new Float64Array(LANES);
  // Totals over runs of keys, for mergeRun.
  readonly #totalOut: Float32Array;
  readonly #totalMax = new Float32Array(BLOCK_ROWS);
  readonly #totalSum = new Float32Array(BLOCK_ROWS);

  constructor(rules: BlockRules) {
    this.#rules = rules;
    this.query = new Float64Array(BLOCK_ROWS * rules.headDim);
    this.#products = new Float64Array(BLOCK_ROWS * rules.headDimV);
    this.#out = new Float32Array(BLOCK_ROWS * rules.headDimV);
    this.#totalOut = new Float32Array(BLOCK_ROWS * rules.headDimV);
  }

  /** Starts a block of `rows` queries; their data follow by {@link setRow}. */
  start(rows: number): void {
    this.#rows = rows;
    this.query.fill(0);
    this.#totalMax.fill(-Infinity);
    this.#totalSum.fill(0);
    this.#totalOut.fill(0);
    this.#startRun();
  }

  #startRun(): void {
    this.#max.fill(-Infinity);
    this.#sum.fill(0);
    this.#out.fill(0);
  }

  /** @param scale f32(query scale · softmax scale). */
  setRow(row: number, scale: number, firstKey: number, endKey: number, maskStart: number): void {
    this.#scale[row] = scale;
    this.#scaleLog2[row] = scale * LOG2_E;
    this.firstKey[row] = firstKey;
    this.endKey[row] = endKey;
    this.maskStart[row] = maskStart;
  }

  /** Smallest and largest key any row may see: [first, end). */
  bounds(): { first: number; end: number } {
    let first = Infinity;
    let end = 0;
    for (let row = 0; row < this.#rows; row++) {
      if (this.endKey[row]! <= this.firstKey[row]!) continue;
      first = Math.min(first, this.firstKey[row]!);
      end = Math.max(end, this.endKey[row]!);
    }
    return first < end ? { first, end } : { first: 0, end: 0 };
  }

  /** Attends to keys [tileStart + from, tileStart + to), where 0 <= from < to <= TILE_KEYS and no row sees others of this tile. */
  absorbTile(head: KeyValueHead, tileStart: number, from: number, to: number): void {
    const fourFrom = from & ~3;
    this.#multiplyKeys(head, tileStart, fourFrom, to);
    const scores = this.#scores;
    for (let row = 0; row < this.#rows; row++) {
      const first = Math.max(this.firstKey[row]! - tileStart, from);
      const end = Math.min(this.endKey[row]! - tileStart, to);
      const base = row * TILE_KEYS;
      const tileMax = first < end ? this.#scaleScores(head, row, tileStart, first, end) : -Infinity;
      if (tileMax === -Infinity) {
        scores.fill(0, base + from, base + to);
        this.#keep[row] = 1;
        this.#take[row] = 0;
        continue;
      }
      if (from < first) scores.fill(0, base + from, base + first);
      if (end < to) scores.fill(0, base + end, base + to);
      this.#exponentiate(head, row, tileStart, first, end, tileMax);
    }
    this.#multiplyValues(head, tileStart, from, to);
  }

  #multiplyKeys(head: KeyValueHead, tileStart: number, from: number, to: number): void {
    const { headDim } = this.#rules;
    const scores = this.#scores;
    if (head.keysAreCodes) {
      scores.fill(0);
      for (let key = from; key < to; key += 4) {
        const at = ((tileStart + key) / 2) * headDim;
        for (let row = 0; row < this.#rows; row += 4) {
          addPackedDots(
            this.query,
            row * headDim,
            headDim,
            head.keyRows,
            at,
            headDim,
            headDim,
            scores,
            row * TILE_KEYS + key,
            TILE_KEYS,
          );
        }
      }
      return;
    }
    for (let key = from; key < to; key += 2) {
      const at = (tileStart + key) * headDim;
      for (let row = 0; row < this.#rows; row += 4) {
        writeFmaDots(
          this.query,
          row * headDim,
          headDim,
          head.keyRows,
          at,
          headDim,
          headDim,
          scores,
          row * TILE_KEYS + key,
          TILE_KEYS,
        );
      }
    }
  }

  /** Turns S into x for keys [first, end) of the tile; returns their maximum, -Infinity when the mask leaves none. */
  #scaleScores(head: KeyValueHead, row: number, tileStart: number, first: number, end: number): number {
    const { softcap, mask } = this.#rules;
    if (softcap > 0 || mask?.type === 'float32') this.#scaleNaturalScores(head, row, tileStart, first, end);
    else if (head.keysAreCodes) this.#scaleCodeScores(head, row, tileStart, first, end);
    else this.#scaleFloatScores(row, first, end);
    if (mask) this.#excludeMasked(mask, row, tileStart, first, end);
    const scores = this.#scores;
    const base = row * TILE_KEYS;
    let max = -Infinity;
    for (let key = first; key < end; key++) if (scores[base + key]! > max) max = scores[base + key]!;
    return max;
  }

  #scaleCodeScores(head: KeyValueHead, row: number, tileStart: number, first: number, end: number): void {
    const scores = this.#scores;
    const { keyScales, logWeights } = head;
    const base = row * TILE_KEYS;
    const scale = this.#scaleLog2[row]!;
    for (let key = first; key < end; key++) {
      scores[base + key] = fma(
        Math.fround(scores[base + key]! * keyScales[tileStart + key]!),
        scale,
        logWeights[tileStart + key]!,
      );
    }
  }

  #scaleFloatScores(row: number, first: number, end: number): void {
    const scores = this.#scores;
    const base = row * TILE_KEYS;
    const scale = this.#scale[row]!;
    for (let key = first; key < end; key++)
      scores[base + key] = Math.fround(Math.fround(scores[base + key]! * scale) * LOG2_E);
  }

  /** With a softcap or a float mask the score is formed in natural units first. */
  #scaleNaturalScores(head: KeyValueHead, row: number, tileStart: number, first: number, end: number): void {
    const { softcap, mask } = this.#rules;
    const bias = mask?.type === 'float32' ? mask : undefined;
    const scores = this.#scores;
    const { keyScales, logWeights } = head;
    const base = row * TILE_KEYS;
    const scale = this.#scale[row]!;
    for (let key = first; key < end; key++) {
      let s = Math.fround(Math.fround(scores[base + key]! * keyScales[tileStart + key]!) * scale);
      if (softcap > 0) s = Math.fround(softcap * Math.fround(Math.tanh(Math.fround(s / softcap))));
      if (bias) s = Math.fround(s + bias.data[this.maskStart[row]! + (tileStart + key) * bias.strides.key]!);
      const x = fma(s, LOG2_E, logWeights[tileStart + key]!);
      // A mask of -FLT_MAX is finite; times log2 e it must stay so, for two infinities have no difference.
      scores[base + key] = Math.min(Math.max(x, -MAX_FLOAT32), MAX_FLOAT32);
    }
  }

  #excludeMasked(mask: MaskOperand, row: number, tileStart: number, first: number, end: number): void {
    const scores = this.#scores;
    const base = row * TILE_KEYS;
    const never = mask.type === 'float32' ? -Infinity : 0;
    for (let key = first; key < end; key++) {
      if (mask.data[this.maskStart[row]! + (tileStart + key) * mask.strides.key] === never)
        scores[base + key] = -Infinity;
    }
  }

  /** Turns x into p (or its codes) for keys [first, end), and updates M and l. */
  #exponentiate(head: KeyValueHead, row: number, tileStart: number, first: number, end: number, tileMax: number): void {
    const { maxCode, runningMax } = this.#rules;
    const scores = this.#scores;
    const lanes = this.#lanes;
    const { inverseWeights } = head;
    const base = row * TILE_KEYS;
    const oldMax = this.#max[row]!;
    const newMax = Math.max(oldMax, tileMax);
    const reference = runningMax ? newMax : tileMax;
    lanes.fill(0);
    for (let key = first; key < end; key++) {
      const x = scores[base + key]!;
      let p = 0;
      if (x !== -Infinity) {
        const difference = Math.fround(x - reference);
        const y = Math.max(difference, -125);
        const n = y + ROUNDER - ROUNDER;
        const f = y - n;
        p = Math.fround(C4 * f + C3);
        p = Math.fround(p * f + C2);
        p = Math.fround(p * f + C1);
        p = Math.fround(p * f + 1) * POWERS[-n]!;
      }
      const lane = key & (LANES - 1);
      lanes[lane] = Math.fround(p * inverseWeights[tileStart + key]! + lanes[lane]!);
      scores[base + key] = maxCode > 0 ? maxCode * p + ROUNDER - ROUNDER : p;
    }
    for (let width = LANES / 2; width >= 1; width /= 2) {
      for (let lane = 0; lane < width; lane++) lanes[lane] = Math.fround(lanes[lane]! + lanes[lane + width]!);
    }
    const keep = oldMax === -Infinity ? 0 : exp2Polynomial(Math.fround(oldMax - newMax));
    const take = runningMax ? 1 : exp2Polynomial(Math.fround(tileMax - newMax));
    this.#keep[row] = keep;
    this.#take[row] = take;
    this.#sum[row] = fma(lanes[0]!, take, Math.fround(this.#sum[row]! * keep));
    this.#max[row] = newMax;
  }

  #multiplyValues(head: KeyValueHead, tileStart: number, from: number, to: number): void {
    const { headDimV } = this.#rules;
    const products = this.#products;
    const tile = tileStart / TILE_KEYS;
    if (head.valuesAreCodes) {
      products.fill(0);
      const at = tile * (headDimV / 2) * TILE_KEYS + from;
      for (let d = 0; d < headDimV; d += 4) {
        const column = at + (d / 2) * TILE_KEYS;
        for (let row = 0; row < this.#rows; row += 4) {
          addPackedDots(
            this.#scores,
            row * TILE_KEYS + from,
            TILE_KEYS,
            head.valueColumns,
            column,
            TILE_KEYS,
            to - from,
            products,
            row * headDimV + d,
            headDimV,
          );
        }
      }
    } else {
      const at = tile * headDimV * TILE_KEYS + from;
      for (let d = 0; d < headDimV; d += 2) {
        const column = at + d * TILE_KEYS;
        for (let row = 0; row < this.#rows; row += 4) {
          writeFmaDots(
            this.#scores,
            row * TILE_KEYS + from,
            TILE_KEYS,
            head.valueColumns,
            column,
            TILE_KEYS,
            to - from,
            products,
            row * headDimV + d,
            headDimV,
          );
        }
      }
    }
    const out = this.#out;
    for (let row = 0; row < this.#rows; row++) {
      const keep = this.#keep[row]!;
      const take = this.#take[row]!;
      if (take === 0) continue;
      const end = (row + 1) * headDimV;
      for (let i = row * headDimV; i < end; i++) out[i] = fma(products[i]!, take, Math.fround(out[i]! * keep));
    }
  }

  /** Ends a run of keys: joins its result to the total and starts afresh. */
  mergeRun(): void {
    const { headDimV } = this.#rules;
    for (let row = 0; row < this.#rows; row++) {
      const runMax = this.#max[row]!;
      if (runMax === -Infinity) continue;
      const oldMax = this.#totalMax[row]!;
      const newMax = Math.max(oldMax, runMax);
      const keep = oldMax === -Infinity ? 0 : exp2Polynomial(Math.fround(oldMax - newMax));
      const take = exp2Polynomial(Math.fround(runMax - newMax));
      this.#totalMax[row] = newMax;
      this.#totalSum[row] = fma(this.#sum[row]!, take, Math.fround(this.#totalSum[row]! * keep));
      for (let i = row * headDimV; i < (row + 1) * headDimV; i++) {
        this.#totalOut[i] = fma(this.#out[i]!, take, Math.fround(this.#totalOut[i]! * keep));
      }
    }
    this.#startRun();
  }

  /** Makes the total of all runs the block's state, as if it had been one. */
  takeTotal(): void {
    this.#max.set(this.#totalMax);
    this.#sum.set(this.#totalSum);
    this.#out.set(this.#totalOut);
  }

  /** Writes the output row; returns its log-sum-exp (natural log, float64), -Infinity for a row that saw no key. */
  finishRow(row: number, epilogue: Float32Array | undefined, out: Float32Array, at: number): number {
    const { headDimV } = this.#rules;
    const max = this.#max[row]!;
    if (max === -Infinity) {
      out.fill(0, at, at + headDimV);
      return -Infinity;
    }
    const sum = this.#sum[row]!;
    const base = row * headDimV;
    if (epilogue) {
      for (let d = 0; d < headDimV; d++) out[at + d] = this.#out[base + d]! * Math.fround(epilogue[d]! / sum);
    } else {
      for (let d = 0; d < headDimV; d++) out[at + d] = this.#out[base + d]! / sum;
    }
    return Math.LN2 * (max + Math.log2(sum));
  }
}
