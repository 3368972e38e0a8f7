import type { AttentionPlan } from '@int-flash/ops';
import { forEachRow, type ReferenceResult } from './softmax-attention.js';

/**
 * FLASH-D: the running output stays normalised, and each key moves it by a sigmoid, so that neither a running maximum nor a final
 * division is needed.
 *
 * With L the log-sum-exp of the keys so far: `w = sigmoid(s - L)`, `O ← O + w·(v - O)`, `L ← L + softplus(s - L)`.
 * Equal to {@link softmaxAttention} in exact arithmetic; the tests hold them to 1e-12.
 * @see FLASH-D, arXiv:2505.14201.
 */
export function flashDAttention(plan: AttentionPlan): ReferenceResult {
  return forEachRow(plan, (scores, values, dim, out) => {
    let logSum = -Infinity;
    for (let j = 0; j < scores.length; j++) {
      const score = scores[j]!;
      if (score === -Infinity) continue;
      const gap = score - logSum; // +Infinity for the first key: weight 1
      const weight = 1 / (1 + Math.exp(-gap));
      for (let d = 0; d < dim; d++) out[d]! += weight * (values[j * dim + d]! - out[d]!);
      logSum = gap === Infinity ? score : logSum + softplus(gap);
    }
    return logSum;
  });
}

/** log(1 + e^x) without overflow on either side. */
function softplus(x: number): number {
  return Math.max(x, 0) + Math.log1p(Math.exp(-Math.abs(x)));
}
