import type { AttentionPlan } from '@int-flash/ops';
import { quantizePerTokenInt4, quantizePerTokenInt8, quantizeTokenLevelV, smoothK } from '@int-flash/quant';
import { gatherFloatRows } from './operand-rows.js';
import { maskValue, visibleBand } from './visible-keys.js';

const TILE_KEYS = 128;

/**
 * The relative L2 error to expect of `plan.precision` on these inputs, before running it: each rounding is taken as independent noise,
 * uniform over one step (variance step² / 12), and carried through softmax to first order.
 *
 * - Q and K: a score's variance is `scale² · (sQ²·|k|² + sK²·|q|²) / 12`; a relative error e of p[j] moves the row by `p[j]·e·(v[j] - out) / l`.
 * - P: step `2^m' / maxCode` against its tile's (or the running) maximum, moving the row by `δ·w·channel·code / l`. Codes below one step are
 *   not uniform (p rounds to 0 with error p), so min(step² / 12, p²) is taken.
 * - V: step `channel · w / 127`, weighed by p / l.
 */
export function predictRelativeRms(plan: AttentionPlan): number {
  const { heads, kvHeads, headDim, headDimV, precision } = plan;
  if (precision === 'fp32') return 0;
  let noise = 0;
  let signal = 0;
  plan.sequences.forEach((span, batch) => {
    for (let head = 0; head < heads; head++) {
      const kvHead = Math.floor(head / (heads / kvHeads));
      const q = gatherFloatRows(plan.query, batch, head, span.qStart, span.qLen, headDim);
      const rawK = gatherFloatRows(plan.key, batch, kvHead, span.kStart, span.kLen, headDim);
      const v = gatherFloatRows(plan.value, batch, kvHead, span.kStart, span.kLen, headDimV);
      const smooth = plan.smoothK && precision !== 'paper-int8' && plan.softcap === 0;
      const k = smooth ? smoothK(rawK, headDim).values : rawK;
      const scalesOf = precision === 'int4-qk' ? quantizePerTokenInt4 : quantizePerTokenInt8;
      const sQ = scalesOf(q, headDim).scales;
      const sK = scalesOf(k, headDim).scales;
      const vSteps = valueSteps(plan, v);
      for (let i = 0; i < span.qLen; i++) {
        const { first, end } = visibleBand(plan, span, i);
        const count = end - first;
        if (count < 1) continue;
        const scores = new Float64Array(count);
        const scoreVariance = new Float64Array(count);
        const qNorm = squaredNorm(q, i * headDim, headDim);
        for (let j = 0; j < count; j++) {
          const key = first + j;
          let dot = 0;
          for (let d = 0; d < headDim; d++) dot += q[i * headDim + d]! * rawK[key * headDim + d]!;
          const scaled = dot * plan.scale;
          const capped = plan.softcap > 0 ? plan.softcap * Math.tanh(scaled / plan.softcap) : scaled;
          const slope = plan.softcap > 0 ? 1 - (capped / plan.softcap) ** 2 : 1;
          scores[j] = capped + maskValue(plan.mask, batch, head, i, key);
          const kNorm = squaredNorm(k, key * headDim, headDim);
          scoreVariance[j] = ((plan.scale * slope) ** 2 * (sQ[i]! ** 2 * kNorm + sK[key]! ** 2 * qNorm)) / 12;
        }
        const max = scores.reduce((best, s) => Math.max(best, s), -Infinity);
        if (max === -Infinity) continue;
        const p = scores.map((s) => Math.exp(s - max));
        const l = p.reduce((sum, x) => sum + x, 0);
        const out = new Float64Array(headDimV);
        for (let j = 0; j < count; j++)
          for (let d = 0; d < headDimV; d++) out[d]! += (p[j]! * v[(first + j) * headDimV + d]!) / l;
        const pStep = probabilitySteps(plan, scores, max, first, vSteps.weights);
        for (let j = 0; j < count; j++) {
          const weight = p[j]! / l;
          const row = (first + j) * headDimV;
          const pVariance = Math.min(pStep[j]! ** 2 / 12, p[j]! ** 2) / l ** 2;
          for (let d = 0; d < headDimV; d++) {
            const spread = v[row + d]! - out[d]!;
            noise +=
              weight ** 2 * spread ** 2 * scoreVariance[j]! +
              pVariance * v[row + d]! ** 2 +
              (weight * vSteps.step(first + j, d)) ** 2 / 12;
          }
        }
        signal += squaredNorm(out, 0, headDimV);
      }
    }
  });
  return signal === 0 ? 0 : Math.sqrt(noise / signal);
}

/** V's rounding step of each element, and the token weights that P is rounded with. */
function valueSteps({ precision, headDimV }: AttentionPlan, v: Float32Array) {
  if (precision === 'half-int8') {
    return { weights: undefined, step: (key: number, d: number) => Math.abs(v[key * headDimV + d]!) * 2 ** -11 };
  }
  if (precision === 'paper-int8') {
    const step = quantizePerTokenInt8(v, Math.max(v.length, 1)).scales[0] ?? 0;
    return { weights: undefined, step: () => step };
  }
  const { tokenWeights, channelScales } = quantizeTokenLevelV(v, headDimV);
  return { weights: tokenWeights, step: (key: number, d: number) => tokenWeights[key]! * channelScales[d]! };
}

/** The step that each p is rounded to, in units of p relative to the row's maximum. */
function probabilitySteps(
  plan: AttentionPlan,
  scores: Float64Array,
  max: number,
  first: number,
  weights?: Float32Array,
): Float64Array {
  const steps = new Float64Array(scores.length);
  if (plan.precision === 'half-int8') return steps; // P stays float
  const paper = plan.precision === 'paper-int8';
  let reference = 0;
  for (let from = 0; from < scores.length; ) {
    const to = Math.min(scores.length, (Math.floor((first + from) / TILE_KEYS) + 1) * TILE_KEYS - first);
    let tileMax = 0;
    for (let j = from; j < to; j++)
      tileMax = Math.max(tileMax, Math.exp(scores[j]! - max) * (weights?.[first + j] ?? 1));
    reference = paper ? Math.max(reference, tileMax) : tileMax;
    for (let j = from; j < to; j++) steps[j] = reference / (paper ? 127 : 255) / (weights?.[first + j] ?? 1);
    from = to;
  }
  return steps;
}

function squaredNorm(values: ArrayLike<number>, from: number, count: number): number {
  let sum = 0;
  for (let i = from; i < from + count; i++) sum += values[i]! ** 2;
  return sum;
}
