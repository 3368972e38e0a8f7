import { exp2Polynomial, fma32, log2Weight, roundHalfEven } from '@int-flash/quant';

// Local names: a test runner that rewrites modules turns every use of an import into a property read, ten times the cost of the fma itself.
const [fma, exp2, rne] = [fma32, exp2Polynomial, roundHalfEven];

/** Keys a tile, and partial row sums (docs/arithmetic.md, Tiles). */
const TILE_KEYS = 128;
const LANES = 16;
const LOG2_E = Math.fround(Math.LOG2E);
const MAX_FLOAT32 = (2 - 2 ** -23) * 2 ** 127;
const MIN_WEIGHT = 2 ** -100;

/** One key/value head as the arithmetic sees it. */
export interface TwinHead {
  /** [keys, headDim]: INT8 codes, or float32 for `fp32`. */
  readonly keys: Int8Array | Float32Array;
  /** [keys]; ones for `fp32`. */
  readonly keyScales: Float32Array;
  /** [keys, headDimV]: INT8 codes, or float32 values. */
  readonly values: Int8Array | Float32Array;
  /** τ and f32(1 / w), [keys]; absent = 0 and 1. */
  readonly weights?: TwinWeights | undefined;
  /** channel, [headDimV]; absent for float values. */
  readonly channels?: Float32Array;
}

export interface TwinWeights {
  readonly log2: Float32Array;
  readonly inverse: Float32Array;
}

/** What token weights w become in the scores and in the row sum. */
export function twinWeights(weights: Float32Array): TwinWeights {
  const floored = weights.map((weight) => Math.max(weight, MIN_WEIGHT));
  return { log2: floored.map(log2Weight), inverse: floored.map((weight) => 1 / weight) };
}

/** What distinguishes the precisions once operands are quantized. */
export interface TwinRules {
  readonly headDim: number;
  readonly headDimV: number;
  /** 255, 127 (`paper-int8`), or 0 when P stays float. */
  readonly maxCode: 0 | 127 | 255;
  /** P against the running maximum, as the paper has it. */
  readonly runningMax: boolean;
  /** float32; 0 = off. */
  readonly softcap: number;
}

/** Receives the integers of one query and tile: S of the visible keys (others 0) and T. Read at once; the arrays are reused. */
export type AccumulatorSink = (tileStart: number, scores: Int32Array, products: Int32Array) => void;

/** A partial softmax: `out / l` is the answer so far, up to the channel scales. */
export interface TwinState {
  /** M, log2 units; -Infinity before the first key. */
  max: number;
  /** l */
  sum: number;
  /** O, [headDimV] */
  readonly out: Float32Array;
}

export function emptyState(headDimV: number): TwinState {
  return { max: -Infinity, sum: 0, out: new Float32Array(headDimV) };
}

/**
 * Walks keys [first, end) of `head` in tiles: steps 1 to 6 of docs/arithmetic.md, one operation at a time.
 *
 * @param query      [headDim] codes or float32.
 * @param queryScale f32(sQ · scale).
 * @param maskOf     What the mask adds to a key's score, -Infinity = excluded; undefined = no mask.
 * @param floatMask  Whether the mask adds numbers, which forms scores in natural units first.
 */
export function absorbKeys(
  state: TwinState,
  rules: TwinRules,
  head: TwinHead,
  query: Int8Array | Float32Array,
  queryScale: number,
  first: number,
  end: number,
  maskOf?: (key: number) => number,
  floatMask = false,
  sink?: AccumulatorSink,
): void {
  const codes = head.keys instanceof Int8Array;
  const x = new Float64Array(TILE_KEYS);
  const p = new Float64Array(TILE_KEYS);
  const products = new Float64Array(rules.headDimV);
  for (let tileStart = first - (first % TILE_KEYS); tileStart < end; tileStart += TILE_KEYS) {
    const from = Math.max(first - tileStart, 0);
    const to = Math.min(end - tileStart, TILE_KEYS);
    const scores = sink && new Int32Array(TILE_KEYS);
    let tileMax = -Infinity;
    for (let j = from; j < to; j++) {
      const key = tileStart + j;
      const dot = codes
        ? integerDot(query as Int8Array, head.keys as Int8Array, key * rules.headDim, rules.headDim)
        : fmaDot(query as Float32Array, head.keys as Float32Array, key * rules.headDim, rules.headDim);
      if (scores) scores[j] = dot;
      const bias = maskOf ? maskOf(key) : 0;
      x[j] =
        bias === -Infinity
          ? -Infinity
          : score(rules, dot, head.keyScales[key]!, queryScale, head.weights?.log2[key] ?? 0, bias, codes, floatMask);
      if (x[j]! > tileMax) tileMax = x[j]!;
    }
    if (tileMax === -Infinity) continue;
    const newMax = Math.max(state.max, tileMax);
    const reference = rules.runningMax ? newMax : tileMax;
    const lanes = new Float64Array(LANES);
    products.fill(0);
    for (let j = from; j < to; j++) {
      const key = tileStart + j;
      const probability = x[j] === -Infinity ? 0 : exp2(Math.fround(x[j]! - reference));
      lanes[j % LANES] = fma(probability, head.weights?.inverse[key] ?? 1, lanes[j % LANES]!);
      p[j] = rules.maxCode > 0 ? rne(rules.maxCode * probability) : probability;
    }
    for (let j = from; j < to; j++) {
      if (p[j] === 0) continue;
      const row = (tileStart + j) * rules.headDimV;
      if (rules.maxCode > 0) addProducts(products, p[j]!, head.values as Int8Array, row);
      else addFusedProducts(products, p[j]!, head.values as Float32Array, row);
    }
    if (scores) sink!(tileStart, scores, Int32Array.from(products));
    for (let width = LANES / 2; width >= 1; width /= 2) {
      for (let lane = 0; lane < width; lane++) lanes[lane] = Math.fround(lanes[lane]! + lanes[lane + width]!);
    }
    join(state, newMax, rules.runningMax ? 1 : exp2(Math.fround(tileMax - newMax)), lanes[0]!, products);
  }
}

/** Step 6: `state` and a later part, whose sums weigh `take`, become one. */
function join(state: TwinState, newMax: number, take: number, sum: number, out: ArrayLike<number>): void {
  const keep = state.max === -Infinity ? 0 : exp2(Math.fround(state.max - newMax));
  state.sum = fma(sum, take, Math.fround(state.sum * keep));
  for (let d = 0; d < state.out.length; d++) state.out[d] = fma(out[d]!, take, Math.fround(state.out[d]! * keep));
  state.max = newMax;
}

/** Merges a later run of keys into `state`. */
export function mergeState(state: TwinState, later: TwinState): void {
  if (later.max === -Infinity) return;
  const newMax = Math.max(state.max, later.max);
  join(state, newMax, exp2(Math.fround(later.max - newMax)), later.sum, later.out);
}

/** Writes the output row and returns its log-sum-exp (natural log, float64). */
export function finishRow(
  state: TwinState,
  rules: TwinRules,
  channels: Float32Array | undefined,
  out: Float32Array,
): number {
  if (state.max === -Infinity) {
    out.fill(0);
    return -Infinity;
  }
  for (let d = 0; d < out.length; d++) {
    out[d] = channels
      ? state.out[d]! * Math.fround(Math.fround(channels[d]! / rules.maxCode) / state.sum)
      : state.out[d]! / state.sum;
  }
  return Math.LN2 * (state.max + Math.log2(state.sum));
}

function score(
  rules: TwinRules,
  dot: number,
  keyScale: number,
  queryScale: number,
  tau: number,
  bias: number,
  codes: boolean,
  floatMask: boolean,
): number {
  if (rules.softcap > 0 || floatMask) {
    let s = Math.fround(Math.fround(dot * keyScale) * queryScale);
    if (rules.softcap > 0) s = Math.fround(rules.softcap * Math.fround(Math.tanh(Math.fround(s / rules.softcap))));
    if (floatMask) s = Math.fround(s + bias);
    return Math.min(Math.max(fma(s, LOG2_E, tau), -MAX_FLOAT32), MAX_FLOAT32);
  }
  if (!codes) return Math.fround(Math.fround(dot * queryScale) * LOG2_E);
  return fma(Math.fround(dot * keyScale), Math.fround(queryScale * LOG2_E), tau);
}

// One function an element type: a loop that sees two kinds of array runs several times slower.
function integerDot(query: Int8Array, keys: Int8Array, at: number, dim: number): number {
  let dot = 0;
  for (let d = 0; d < dim; d++) dot = (dot + query[d]! * keys[at + d]!) | 0;
  return dot;
}

function fmaDot(query: Float32Array, keys: Float32Array, at: number, dim: number): number {
  let dot = 0;
  for (let d = 0; d < dim; d++) dot = fma(query[d]!, keys[at + d]!, dot);
  return dot;
}

function addProducts(products: Float64Array, code: number, values: Int8Array, at: number): void {
  for (let d = 0; d < products.length; d++) products[d]! += code * values[at + d]!;
}

function addFusedProducts(products: Float64Array, p: number, values: Float32Array, at: number): void {
  for (let d = 0; d < products.length; d++) products[d] = fma(p, values[at + d]!, products[d]!);
}
