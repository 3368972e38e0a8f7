import type { LinearWeights } from '@int-flash/ops';
import { dequantizePerGroupInt4 } from './per-group-int4.js';

/** A linear layer's weights for a backend that has no INT4 ones: those in 4 bits as the float32 numbers they stand for. */
export function widenInt4Linear(weights: LinearWeights): Exclude<LinearWeights, { readonly type: 'int4' }> {
  if (weights.type !== 'int4') return weights;
  const { rows, cols, bias } = weights;
  return { type: 'fp32', rows, cols, bias, weights: dequantizePerGroupInt4(weights) };
}
