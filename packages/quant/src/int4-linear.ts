import { checkChoice, IntFlashError, type LinearWeights, wrongType } from '@int-flash/ops';
import { checkCount, type FieldReaders, float32Array, readFields } from './argument-check.js';
import { dequantizePerGroupInt4, GROUP_READERS, type PerGroupInt4 } from './per-group-int4.js';

type Int4Fields = PerGroupInt4 & { rows: number; cols: number; bias: Float32Array | undefined };

/**
 * A linear layer's weights for a backend that has no INT4 ones: those in 4 bits as the float32 numbers they stand for, others as they are.
 *
 * @throws {IntFlashError} `ERR_ARG_TYPE`, `ERR_ARG_RANGE`, `ERR_SHAPE` when codes, scales, rows and columns do not fit each other, `ERR_BUFFER_*`,
 *   `ERR_OOM`.
 */
export function widenInt4Linear(weights: LinearWeights): Exclude<LinearWeights, { readonly type: 'int4' }> {
  const { type } = readFields<{ type: LinearWeights['type'] }>(weights, { type: linearType });
  if (type !== 'int4') return weights as Exclude<LinearWeights, { readonly type: 'int4' }>;
  const { rows, cols, bias, ...codes } = readFields<Int4Fields>(weights, READERS);
  if (cols % codes.group !== 0 || codes.scales.length * codes.group !== rows * cols) {
    const got = `${codes.scales.length} scales for groups of ${codes.group}`;
    throw new IntFlashError('ERR_SHAPE', `Expected INT4 codes of ${rows} rows and ${cols} columns, got ${got}`);
  }
  return { type: 'fp32', rows, cols, bias, weights: dequantizePerGroupInt4(codes) };
}

const READERS: FieldReaders<Int4Fields> = {
  rows: checkCount,
  cols: checkCount,
  bias: (value, name) => (value === undefined ? value : float32Array(value, name)),
  ...GROUP_READERS,
};

function linearType(value: unknown, name: string): LinearWeights['type'] {
  if (typeof value !== 'string') throw wrongType(`${name} to be a string`, value);
  return checkChoice(value, name, ['fp32', 'int8', 'int4'], 'fp32');
}
