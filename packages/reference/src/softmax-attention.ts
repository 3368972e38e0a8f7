import type { AttentionPlan } from '@int-flash/ops';
import { gatherFloatRows, rowOffset } from './operand-rows.js';
import { maskValue, visibleBand } from './visible-keys.js';

/** Float64 results, shaped and strided as the plan says (`outDims`, `lseDims`). */
export interface ReferenceResult {
  readonly out: Float64Array;
  readonly lse: Float64Array;
}

/**
 * The textbook formula in float64: `softmax(cap(Q·Kᵀ·scale) + mask)·V`, one row at a time, nothing tiled or rescaled.
 * What every other implementation is measured against; `precision` and `smoothK` are ignored.
 */
export function softmaxAttention(plan: AttentionPlan): ReferenceResult {
  return forEachRow(plan, (scores, values, dim, out) => {
    const max = scores.reduce((best, score) => Math.max(best, score), -Infinity);
    if (max === -Infinity) return -Infinity;
    let sum = 0;
    for (let j = 0; j < scores.length; j++) {
      const p = Math.exp(scores[j]! - max);
      if (p === 0) continue;
      sum += p;
      for (let d = 0; d < dim; d++) out[d]! += p * values[j * dim + d]!;
    }
    for (let d = 0; d < dim; d++) out[d]! /= sum;
    return max + Math.log(sum);
  });
}

/**
 * Runs `row` on every query's scores (float64, natural units, -Infinity where excluded) and its head's values, both limited to the
 * band's keys.
 *
 * @param row Adds the output to `out` (zeros on entry) and returns the log-sum-exp.
 */
export function forEachRow(
  plan: AttentionPlan,
  row: (scores: Float64Array, values: Float32Array, dim: number, out: Float64Array) => number,
): ReferenceResult {
  const { heads, kvHeads, headDim, headDimV, sequences, mask } = plan;
  const out = new Float64Array(plan.outDims.reduce((total, dim) => total * dim, 1));
  const lse = new Float64Array(plan.lseDims.reduce((total, dim) => total * dim, 1)).fill(-Infinity);
  sequences.forEach((span, batch) => {
    for (let head = 0; head < heads; head++) {
      const kvHead = Math.floor(head / (heads / kvHeads));
      const q = gatherFloatRows(plan.query, batch, head, span.qStart, span.qLen, headDim);
      const k = gatherFloatRows(plan.key, batch, kvHead, span.kStart, span.kLen, headDim);
      const v = gatherFloatRows(plan.value, batch, kvHead, span.kStart, span.kLen, headDimV);
      for (let i = 0; i < span.qLen; i++) {
        const { first, end } = visibleBand(plan, span, i);
        if (end <= first) continue;
        const scores = new Float64Array(end - first);
        for (let j = first; j < end; j++) {
          let dot = 0;
          for (let d = 0; d < headDim; d++) dot += q[i * headDim + d]! * k[j * headDim + d]!;
          const scaled = dot * plan.scale;
          const capped = plan.softcap > 0 ? plan.softcap * Math.tanh(scaled / plan.softcap) : scaled;
          scores[j - first] = capped + maskValue(mask, batch, head, i, j);
        }
        const to = rowOffset(plan.outStrides, batch, head, span.qStart + i);
        const values = v.subarray(first * headDimV, end * headDimV);
        lse[rowOffset(plan.lseStrides, batch, head, span.qStart + i)] = row(
          scores,
          values,
          headDimV,
          out.subarray(to, to + headDimV),
        );
      }
    }
  });
  return { out, lse };
}
