import type { AttentionPlan } from '@int-flash/ops';
import { runSteps, type Steps } from './steps.js';
import { type ReferenceResult, walkRows } from './walk-rows.js';

/** `float64` shows that the formula is the same one; `float32`, every operation rounded, what it costs on hardware. */
export type FlashDArithmetic = 'float64' | 'float32';

/**
 * FLASH-D: the running output stays normalised, and each key moves it by a sigmoid, so that neither a running maximum nor a final
 * division is needed.
 *
 * With L the log-sum-exp of the keys so far: `w = sigmoid(s - L)`, `O ← O + w·(v - O)`, `L ← L + softplus(s - L)`.
 * Equal to {@link softmaxAttention} in exact arithmetic; the tests hold them to 1e-12.
 * @see FLASH-D, arXiv:2505.14201.
 */
export function flashDAttention(plan: AttentionPlan, arithmetic: FlashDArithmetic = 'float64'): ReferenceResult {
  return runSteps(flashDAttentionSteps(plan, arithmetic));
}

/** {@link flashDAttention}, a row a step. */
export function flashDAttentionSteps(
  plan: AttentionPlan,
  arithmetic: FlashDArithmetic = 'float64',
): Steps<ReferenceResult> {
  const round = arithmetic === 'float32' ? Math.fround : (x: number) => x;
  return walkRows(plan, ({ scores, values, dim }, out) => {
    let logSum = -Infinity;
    for (let j = 0; j < scores.length; j++) {
      const score = round(scores[j]!);
      if (score === -Infinity) continue;
      const gap = round(score - logSum); // +Infinity for the first key: weight 1
      const weight = round(1 / round(1 + round(Math.exp(-gap))));
      for (let d = 0; d < dim; d++) {
        out[d] = round(out[d]! + round(weight * round(values[j * dim + d]! - out[d]!)));
      }
      logSum = gap === Infinity ? score : round(logSum + softplus(gap, round));
    }
    return logSum;
  });
}

/** log(1 + e^x) without overflow on either side. */
function softplus(x: number, round: (x: number) => number): number {
  return round(Math.max(x, 0) + round(Math.log1p(round(Math.exp(-Math.abs(x))))));
}
