import { type AttentionPlan, hostArrayOf } from '@int-flash/ops';
import { gatherFloatRows, rowOffset } from './operand-rows.js';
import type { Steps } from './steps.js';
import { maskValue, visibleBand } from './visible-keys.js';

/** Float64 results, shaped and strided as the plan says (`outDims`, `lseDims`). */
export interface ReferenceResult {
  readonly out: Float64Array;
  readonly lse: Float64Array;
}

/** One query against the keys that its band lets it see. */
export interface QueryRow {
  /** Float64, natural units, -Infinity where the mask excludes the key. */
  readonly scores: Float64Array;
  /** [scores.length, dim]; times `valueScale`. */
  readonly values: Float32Array;
  readonly dim: number;
  /** 1 unless the rows were prepared. */
  readonly valueScale: number;
}

/** Rows of one head in some other number format: they stand for `rows · scale`. */
export interface PreparedRows {
  readonly rows: Float32Array;
  readonly scale: number;
}

/**
 * Runs `row` on every query of the plan, a step each.
 *
 * @param row     Adds the output to `out` (zeros on entry) and returns the log-sum-exp.
 * @param prepare What becomes of a head's queries, keys or values before anything is computed with them.
 */
export function* walkRows(
  plan: AttentionPlan,
  row: (query: QueryRow, out: Float64Array) => number,
  prepare: (rows: Float32Array) => PreparedRows = (rows) => ({ rows, scale: 1 }),
): Steps<ReferenceResult> {
  const { heads, kvHeads, headDim, headDimV, sequences, mask } = plan;
  const out = hostArrayOf(Float64Array, plan.outDims, 'the answer');
  const lse = hostArrayOf(Float64Array, plan.lseDims, 'lse').fill(-Infinity);
  for (const [batch, span] of sequences.entries()) {
    for (let head = 0; head < heads; head++) {
      const kvHead = Math.floor(head / (heads / kvHeads));
      const q = prepare(gatherFloatRows(plan.query, batch, head, span.qStart, span.qLen, headDim));
      const k = prepare(gatherFloatRows(plan.key, batch, kvHead, span.kStart, span.kLen, headDim));
      const v = prepare(gatherFloatRows(plan.value, batch, kvHead, span.kStart, span.kLen, headDimV));
      const scale = plan.scale * q.scale * k.scale;
      for (let i = 0; i < span.qLen; i++) {
        const { first, end } = visibleBand(plan, span, i);
        if (end <= first) continue;
        const scores = new Float64Array(end - first);
        for (let j = first; j < end; j++) {
          let dot = 0;
          for (let d = 0; d < headDim; d++) dot += q.rows[i * headDim + d]! * k.rows[j * headDim + d]!;
          const scaled = dot * scale;
          const capped = plan.softcap > 0 ? plan.softcap * Math.tanh(scaled / plan.softcap) : scaled;
          scores[j - first] = capped + maskValue(mask, batch, head, i, j);
        }
        const to = rowOffset(plan.outStrides, batch, head, span.qStart + i);
        const values = v.rows.subarray(first * headDimV, end * headDimV);
        lse[rowOffset(plan.lseStrides, batch, head, span.qStart + i)] = row(
          { scores, values, dim: headDimV, valueScale: v.scale },
          out.subarray(to, to + headDimV),
        );
        yield;
      }
    }
  }
  return { out, lse };
}
