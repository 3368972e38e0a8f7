import { type AttentionPlan, hostArray, type QuantizedAttentionPlan, type SequenceSpan } from '@int-flash/ops';
import { quantizePerTokenInt8 } from '@int-flash/quant';
import { LESS_AT_ONCE } from './less-at-once.js';
import { gatherFloatRows, maxMagnitude, type Steps } from './portable-float-rows.js';
import {
  type KeyValueHead,
  keyRowsLength,
  noWeights,
  packKeyCodes,
  packValueCodes,
  packValueFloats,
  readWeights,
  TILE_KEYS,
  valueColumnsLength,
} from './portable-key-value.js';
import { MAX_SCORE, tooLarge } from './portable-score-bound.js';
import { quantizeRows, quantizeValues, roundToFloat16, smoothInPlace } from './portable-stepwise-quantizers.js';

/** Queries of one head: codes with a scale each, or float32 numbers with scale 1. */
export interface QueryHead {
  readonly rows: Int8Array | Float32Array;
  readonly scales: Float32Array;
  /** Added to each query's log-sum-exp: scale · (q · mean of the keys that smoothing took away). */
  readonly lseShift: Float64Array | undefined;
  /** Bound of |q|, for {@link checkScoreBound}: 127 times the largest scale where rows are codes. */
  readonly magnitude: number;
}

/** A prepared key/value head, and what the queries need to know about it. */
export interface PreparedKeys {
  readonly head: KeyValueHead;
  readonly keyMean: Float32Array | undefined;
  readonly magnitude: number;
}

/** Quantizes and packs the keys and values of one head of one sequence, as `plan.precision` says. */
export function* prepareFloatKeys(
  plan: AttentionPlan,
  batch: number,
  kvHead: number,
  span: SequenceSpan,
): Steps<PreparedKeys> {
  const { precision, headDim, headDimV } = plan;
  const keys = span.kLen;
  const keyFloats = yield* gatherFloatRows(plan.key, 'key', batch, kvHead, span.kStart, keys, headDim);
  const values = yield* gatherFloatRows(plan.value, 'value', batch, kvHead, span.kStart, keys, headDimV);
  if (maxMagnitude(keyFloats) > MAX_SCORE) throw tooLarge('keys', maxMagnitude(keyFloats));
  if (maxMagnitude(values) > MAX_SCORE) throw tooLarge('values', maxMagnitude(values));
  if (precision === 'fp32') {
    const keyRows = packedArray(keyRowsLength(keys, headDim, false));
    keyRows.set(keyFloats);
    yield;
    const valueColumns = yield* packFloatTiles(values, keys, headDimV);
    const head: KeyValueHead = {
      keysAreCodes: false,
      valuesAreCodes: false,
      keyRows,
      valueColumns,
      keyScales: new Float32Array(keys).fill(1),
      ...noWeights(keys),
      epilogue: undefined,
    };
    return { head, keyMean: undefined, magnitude: maxMagnitude(keyFloats) };
  }
  let keyMean: Float32Array | undefined;
  // A softcap is not blind to a shift of the scores, so keys stay as they are there.
  if (plan.smoothK && precision !== 'paper-int8' && plan.softcap === 0) {
    keyMean = yield* smoothInPlace(keyFloats, headDim);
  }
  const { codes, scales: keyScales } = yield* quantizeRows(keyFloats, headDim, precision === 'int4-qk');
  yield;
  const keyRows = packedArray(keyRowsLength(keys, headDim, true));
  packKeyCodes(codes, 0, 0, keys, headDim, keyRows);
  yield;
  const common = { keysAreCodes: true, keyRows, keyScales } as const;
  const magnitude = 127 * maxMagnitude(keyScales);
  if (precision === 'half-int8') {
    yield* roundToFloat16(values);
    const valueColumns = yield* packFloatTiles(values, keys, headDimV);
    return {
      head: { ...common, valuesAreCodes: false, valueColumns, ...noWeights(keys), epilogue: undefined },
      keyMean,
      magnitude,
    };
  }
  if (precision === 'paper-int8') {
    const tensor = quantizePerTokenInt8(values, Math.max(values.length, 1)); // the head as one row: one scale
    yield;
    const valueColumns = yield* packCodeTiles(tensor.values, keys, headDimV);
    const epilogue = new Float32Array(headDimV).fill(Math.fround((tensor.scales[0] ?? 1) / 127));
    return {
      head: { ...common, valuesAreCodes: true, valueColumns, ...noWeights(keys), epilogue },
      keyMean,
      magnitude,
    };
  }
  const tokenLevel = yield* quantizeValues(values, headDimV);
  const valueColumns = yield* packCodeTiles(tokenLevel.values, keys, headDimV);
  const head: KeyValueHead = {
    ...common,
    valuesAreCodes: true,
    valueColumns,
    ...readWeights(tokenLevel.tokenWeights),
    epilogue: tokenLevel.channelScales.map((scale) => scale / 255),
  };
  return { head, keyMean, magnitude };
}

/** Quantizes the queries of one head of one sequence. */
export function* prepareFloatQueries(
  plan: AttentionPlan,
  batch: number,
  headIndex: number,
  span: SequenceSpan,
  keyMean: Float32Array | undefined,
): Steps<QueryHead> {
  const { headDim, precision } = plan;
  const floats = yield* gatherFloatRows(plan.query, 'query', batch, headIndex, span.qStart, span.qLen, headDim);
  if (precision === 'fp32')
    return {
      rows: floats,
      scales: new Float32Array(span.qLen).fill(1),
      lseShift: undefined,
      magnitude: maxMagnitude(floats),
    };
  const { codes, scales } = yield* quantizeRows(floats, headDim, precision === 'int4-qk');
  let lseShift: Float64Array | undefined;
  if (keyMean && plan.returnLse) {
    lseShift = new Float64Array(span.qLen);
    for (let row = 0; row < span.qLen; row++) {
      let dot = 0;
      for (let d = 0; d < headDim; d++) dot += floats[row * headDim + d]! * keyMean[d]!;
      lseShift[row] = plan.scale * dot;
    }
  }
  yield;
  return { rows: codes, scales, lseShift, magnitude: 127 * maxMagnitude(scales) };
}

/** Packs the caller's codes of one key/value head of one sequence. */
export function* prepareCodedKeys(
  plan: QuantizedAttentionPlan,
  batch: number,
  kvHead: number,
  span: SequenceSpan,
): Steps<PreparedKeys> {
  const { headDim, headDimV, keyScale, valueScale, valueChannelScale } = plan;
  const keys = span.kLen;
  const keyCodes = gatherCodeRows(plan.key, 'key', batch, kvHead, span.kStart, keys, headDim);
  const keyRows = packedArray(keyRowsLength(keys, headDim, true));
  packKeyCodes(keyCodes, 0, 0, keys, headDim, keyRows);
  yield;
  const valueColumns = yield* packCodeTiles(
    gatherCodeRows(plan.value, 'value', batch, kvHead, span.kStart, keys, headDimV),
    keys,
    headDimV,
  );
  const keyScales = gatherScales(keyScale, batch, kvHead, span.kStart, keys);
  const channelStart = valueChannelScale
    ? batch * valueChannelScale.strides.batch + kvHead * valueChannelScale.strides.head
    : 0;
  const channels = valueChannelScale
    ? valueChannelScale.data.slice(channelStart, channelStart + headDimV)
    : new Float32Array(headDimV).fill(1);
  const maxCode = plan.precision === 'paper-int8' ? 127 : 255;
  const perHead = valueScale.strides.token === 0;
  if (perHead) {
    const headScale = valueScale.data[batch * valueScale.strides.batch + kvHead * valueScale.strides.head]!;
    for (let d = 0; d < headDimV; d++) channels[d]! *= headScale;
  }
  const head: KeyValueHead = {
    keysAreCodes: true,
    valuesAreCodes: true,
    keyRows,
    valueColumns,
    keyScales,
    ...(perHead ? noWeights(keys) : readWeights(gatherScales(valueScale, batch, kvHead, span.kStart, keys))),
    epilogue: channels.map((scale) => scale / maxCode),
  };
  return { head, keyMean: undefined, magnitude: 127 * maxMagnitude(keyScales) };
}

export function* prepareCodedQueries(
  plan: QuantizedAttentionPlan,
  batch: number,
  headIndex: number,
  span: SequenceSpan,
): Steps<QueryHead> {
  const rows = gatherCodeRows(plan.query, 'query', batch, headIndex, span.qStart, span.qLen, plan.headDim);
  const scales = gatherScales(plan.queryScale, batch, headIndex, span.qStart, span.qLen);
  yield;
  return { rows, scales, lseShift: undefined, magnitude: 127 * maxMagnitude(scales) };
}

function packedArray(length: number): Float64Array {
  return hostArray(Float64Array, length, 'packed keys and values', LESS_AT_ONCE);
}

function* packCodeTiles(codes: Int8Array, keys: number, headDimV: number): Steps<Float64Array> {
  const out = packedArray(valueColumnsLength(keys, headDimV, true));
  for (let first = 0; first < keys; first += TILE_KEYS) {
    packValueCodes(codes, first * headDimV, Math.min(TILE_KEYS, keys - first), headDimV, out, (first * headDimV) / 2);
    yield;
  }
  return out;
}

function* packFloatTiles(values: Float32Array, keys: number, headDimV: number): Steps<Float64Array> {
  const out = packedArray(valueColumnsLength(keys, headDimV, false));
  for (let first = 0; first < keys; first += TILE_KEYS) {
    packValueFloats(values, first * headDimV, Math.min(TILE_KEYS, keys - first), headDimV, out, first * headDimV);
    yield;
  }
  return out;
}

type Coded = QuantizedAttentionPlan['key'];
type Scaled = QuantizedAttentionPlan['keyScale'];

function gatherCodeRows(
  { data, strides }: Coded,
  name: string,
  batch: number,
  head: number,
  start: number,
  count: number,
  dim: number,
): Int8Array {
  const rows = hostArray(Int8Array, count * dim, `${name} rows`, LESS_AT_ONCE);
  const origin = batch * strides.batch + head * strides.head;
  for (let row = 0; row < count; row++) {
    const at = origin + (start + row) * strides.token;
    rows.set(data.subarray(at, at + dim), row * dim);
  }
  return rows;
}

function gatherScales(
  { data, strides }: Scaled,
  batch: number,
  head: number,
  start: number,
  count: number,
): Float32Array {
  const scales = new Float32Array(count);
  const origin = batch * strides.batch + head * strides.head;
  for (let i = 0; i < count; i++) scales[i] = data[origin + (start + i) * strides.token]!;
  return scales;
}
