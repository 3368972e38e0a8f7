import type { AttentionPlan } from '@int-flash/ops';
import { runSteps, type Steps } from './steps.js';
import { type ReferenceResult, walkRows } from './walk-rows.js';

/**
 * The textbook formula in float64: `softmax(cap(Q·Kᵀ·scale) + mask)·V`, one row at a time, nothing tiled or rescaled.
 * What every other implementation is measured against; `precision` and `smoothK` are ignored.
 */
export function softmaxAttention(plan: AttentionPlan): ReferenceResult {
  return runSteps(softmaxAttentionSteps(plan));
}

/** {@link softmaxAttention}, a row a step. */
export function softmaxAttentionSteps(plan: AttentionPlan): Steps<ReferenceResult> {
  return walkRows(plan, ({ scores, values, dim }, out) => {
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
