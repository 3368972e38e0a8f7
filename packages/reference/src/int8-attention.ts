import {
  type AttentionPlan,
  fromFloat32,
  hostArrayOf,
  IntFlashError,
  type QuantizedAttentionPlan,
  type SequenceSpan,
  toFloat32,
} from '@int-flash/ops';
import { encodePerTokenInt4, quantizePerTokenInt8, quantizeTokenLevelV, smoothK } from '@int-flash/quant';
import { gatherFloatRows, gatherRows, rowOffset } from './operand-rows.js';
import { checkScoreBound, LIMIT, magnitude } from './score-bound.js';
import { absorbKeys, emptyState, finishRow, type TwinHead, type TwinRules, twinWeights } from './twin-row.js';
import { maskValue, visibleBand } from './visible-keys.js';

const MAX_FLOAT16 = 65504;

/** What the twin returns: the bits a backend should give, and the row sums that tolerances are derived from. */
export interface TwinResult {
  /** Shape `outDims`. */
  readonly out: Float32Array;
  /** Shape `lseDims`. */
  readonly lse: Float32Array;
  /** l of each row relative to its own maximum weight, shape `lseDims`: one flipped code of P moves the row by about `channel / l`. */
  readonly rowSum: Float32Array;
}

/** Where the integers of a tile belong. `query` counts from the sequence's first. */
export type TwinObserver = (
  place: { readonly batch: number; readonly head: number; readonly query: number; readonly tileStart: number },
  scores: Int32Array,
  products: Int32Array,
) => void;

interface QueryRows {
  readonly rows: Int8Array | Float32Array;
  readonly scales: Float32Array;
  readonly lseShift?: Float64Array;
}

/**
 * The integer twin: what every backend means to compute, for every `precision`, operation by operation as docs/arithmetic.md has it,
 * one row at a time and without any blocking.
 *
 * @param plan    Float plan (quantized here) or pre-quantized plan.
 * @param observe Called with the INT32 accumulators of each query and tile that has a visible key (meaningful for INT8 products).
 * @throws {IntFlashError} `ERR_NONFINITE`, `ERR_OVERFLOW`, `ERR_OOM` as the backends do.
 */
export function int8Attention(plan: AttentionPlan | QuantizedAttentionPlan, observe?: TwinObserver): TwinResult {
  const rules: TwinRules = {
    headDim: plan.headDim,
    headDimV: plan.headDimV,
    maxCode:
      plan.precision === 'paper-int8' ? 127 : plan.precision === 'half-int8' || plan.precision === 'fp32' ? 0 : 255,
    runningMax: plan.precision === 'paper-int8',
    softcap: Math.fround(plan.softcap),
  };
  const out = hostArrayOf(Float32Array, plan.outDims, 'the answer');
  const lse = hostArrayOf(Float32Array, plan.lseDims, 'lse').fill(-Infinity);
  const rowSum = hostArrayOf(Float32Array, plan.lseDims, 'row sums');
  const mask = plan.mask;
  plan.sequences.forEach((span, batch) => {
    for (let kvHead = 0; kvHead < plan.kvHeads; kvHead++) {
      const { head, mean } = isFloatPlan(plan)
        ? floatHead(plan, batch, kvHead, span)
        : codedHead(plan, batch, kvHead, span);
      const group = plan.heads / plan.kvHeads;
      for (let h = kvHead * group; h < (kvHead + 1) * group; h++) {
        const queries = isFloatPlan(plan)
          ? floatQueries(plan, batch, h, span, mean)
          : codedQueries(plan, batch, h, span);
        checkScoreBound(magnitude(queries.rows, queries.scales), magnitude(head.keys, head.keyScales), plan);
        for (let i = 0; i < span.qLen; i++) {
          const { first, end } = visibleBand(plan, span, i);
          const state = emptyState(plan.headDimV);
          if (end > first) {
            absorbKeys(
              state,
              rules,
              head,
              queries.rows.subarray(i * plan.headDim, (i + 1) * plan.headDim),
              Math.fround(queries.scales[i]! * plan.scale),
              first,
              end,
              mask && ((key) => maskValue(mask, batch, h, i, key)),
              mask?.type === 'float32',
              observe &&
                ((tileStart, scores, products) => observe({ batch, head: h, query: i, tileStart }, scores, products)),
            );
          }
          const to = rowOffset(plan.outStrides, batch, h, span.qStart + i);
          const at = rowOffset(plan.lseStrides, batch, h, span.qStart + i);
          const rowLse = finishRow(state, rules, head.channels, out.subarray(to, to + plan.headDimV));
          lse[at] = rowLse + (queries.lseShift?.[i] ?? 0);
          rowSum[at] = state.sum;
        }
      }
    }
  });
  return { out, lse, rowSum };
}

function isFloatPlan(plan: AttentionPlan | QuantizedAttentionPlan): plan is AttentionPlan {
  return 'smoothK' in plan;
}

function boundedRows(rows: Float32Array, name: string, limit = LIMIT): Float32Array {
  const large = finiteRows(rows, name).find((value) => Math.abs(value) > limit);
  if (large !== undefined)
    throw new IntFlashError('ERR_OVERFLOW', `Expected |${name}| of at most ${limit}, got ${large}`);
  return rows;
}

function finiteRows(rows: Float32Array, name: string): Float32Array {
  const bad = rows.findIndex((value) => !Number.isFinite(value));
  if (bad >= 0) throw new IntFlashError('ERR_NONFINITE', `Expected ${name} to hold finite numbers, got ${rows[bad]}`);
  return rows;
}

function floatHead(
  plan: AttentionPlan,
  batch: number,
  kvHead: number,
  span: SequenceSpan,
): { head: TwinHead; mean?: Float32Array } {
  const { precision, headDim, headDimV } = plan;
  const k = boundedRows(gatherFloatRows(plan.key, batch, kvHead, span.kStart, span.kLen, headDim), 'key');
  const v = boundedRows(
    gatherFloatRows(plan.value, batch, kvHead, span.kStart, span.kLen, headDimV),
    'value',
    precision === 'half-int8' ? MAX_FLOAT16 : LIMIT,
  );
  if (precision === 'fp32') return { head: { keys: k, keyScales: new Float32Array(span.kLen).fill(1), values: v } };
  const smooth = plan.smoothK && precision !== 'paper-int8' && plan.softcap === 0 ? smoothK(k, headDim) : undefined;
  const { codes, scales } = quantizeRows(smooth?.values ?? k, headDim, precision === 'int4-qk');
  const common = { keys: codes, keyScales: scales };
  const mean = smooth && { mean: smooth.mean };
  if (precision === 'half-int8') {
    return { head: { ...common, values: toFloat32(fromFloat32(v, 'float16'), 'float16') }, ...mean };
  }
  if (precision === 'paper-int8') {
    const tensor = quantizePerTokenInt8(v, Math.max(v.length, 1)); // one scale for the whole head
    return {
      head: { ...common, values: tensor.values, channels: new Float32Array(headDimV).fill(tensor.scales[0] ?? 1) },
    };
  }
  const { values, tokenWeights, channelScales } = quantizeTokenLevelV(v, headDimV);
  return { head: { ...common, values, weights: twinWeights(tokenWeights), channels: channelScales }, ...mean };
}

function floatQueries(
  plan: AttentionPlan,
  batch: number,
  head: number,
  span: SequenceSpan,
  mean?: Float32Array,
): QueryRows {
  const { headDim } = plan;
  const q = finiteRows(gatherFloatRows(plan.query, batch, head, span.qStart, span.qLen, headDim), 'query');
  if (plan.precision === 'fp32') return { rows: q, scales: new Float32Array(span.qLen).fill(1) };
  const { codes, scales } = quantizeRows(q, headDim, plan.precision === 'int4-qk');
  if (!mean) return { rows: codes, scales };
  const lseShift = new Float64Array(span.qLen);
  for (let i = 0; i < span.qLen; i++) {
    let dot = 0;
    for (let d = 0; d < headDim; d++) dot += q[i * headDim + d]! * mean[d]!;
    lseShift[i] = plan.scale * dot;
  }
  return { rows: codes, scales, lseShift };
}

function quantizeRows(rows: Float32Array, dim: number, int4: boolean): { codes: Int8Array; scales: Float32Array } {
  if (int4) return encodePerTokenInt4(rows, dim);
  const { values, scales } = quantizePerTokenInt8(rows, dim);
  return { codes: values, scales };
}

function codedHead(
  plan: QuantizedAttentionPlan,
  batch: number,
  kvHead: number,
  span: SequenceSpan,
): { head: TwinHead; mean?: undefined } {
  const { headDim, headDimV, valueScale, valueChannelScale } = plan;
  const channels = valueChannelScale
    ? gatherRows(valueChannelScale, batch, kvHead, 0, 1, headDimV)
    : new Float32Array(headDimV).fill(1);
  const perHead = valueScale.strides.token === 0;
  const weights = gatherRows(valueScale, batch, kvHead, span.kStart, perHead ? 1 : span.kLen, 1);
  if (perHead) for (let d = 0; d < headDimV; d++) channels[d]! *= weights[0]!;
  return {
    head: {
      keys: gatherRows(plan.key, batch, kvHead, span.kStart, span.kLen, headDim),
      keyScales: gatherRows(plan.keyScale, batch, kvHead, span.kStart, span.kLen, 1),
      values: gatherRows(plan.value, batch, kvHead, span.kStart, span.kLen, headDimV),
      weights: perHead ? undefined : twinWeights(weights),
      channels,
    },
  };
}

function codedQueries(plan: QuantizedAttentionPlan, batch: number, head: number, span: SequenceSpan): QueryRows {
  return {
    rows: gatherRows(plan.query, batch, head, span.qStart, span.qLen, plan.headDim),
    scales: gatherRows(plan.queryScale, batch, head, span.qStart, span.qLen, 1),
  };
}
