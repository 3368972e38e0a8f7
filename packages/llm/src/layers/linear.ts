import { type Backend, IntFlashError, type Linear, type LinearWeights } from '@int-flash/ops';
import { quantizePerTokenInt8, widenInt4Linear } from '@int-flash/quant';

/** `auto` computes in the type the weights are stored in. `int8` is W8A8: per-row weights, activations quantized per token. */
export const LINEAR_CHOICES = ['auto', 'fp32', 'int8'] as const;
export type LinearChoice = (typeof LINEAR_CHOICES)[number];

/**
 * Makes one linear layer of several that read the same input: their rows follow each other in the output.
 * A row's result does not depend on its neighbours, so nothing but the number of calls changes.
 *
 * `auto` is INT4 or INT8 where all are stored so, else fp32.
 *
 * @throws {IntFlashError} `ERR_SHAPE` when they read inputs of different widths.
 */
export function createLinear(backend: Backend, parts: readonly LinearWeights[], choice: LinearChoice): Linear {
  const cols = parts[0]!.cols;
  const odd = parts.find((part) => part.cols !== cols);
  if (odd) throw new IntFlashError('ERR_SHAPE', `Expected linear layers of ${cols} columns, got ${odd.cols}`);
  const rows = parts.reduce((sum, part) => sum + part.rows, 0);
  const bias = parts.some((part) => part.bias)
    ? concatenate(parts, (part) => part.bias ?? new Float32Array(part.rows))
    : undefined;
  const type = choice === 'auto' ? storedType(parts) : choice;
  if (type === 'int4') {
    const packed = new Uint8Array((rows * cols) / 2);
    const coded = parts.filter(isInt4);
    coded.reduce((from, part) => {
      packed.set(part.packed, from);
      return from + part.packed.length;
    }, 0);
    const scales = concatenate(coded, (part) => part.scales);
    return backend.createLinear({ type, rows, cols, bias, packed, scales, group: coded[0]!.group });
  }
  if (type === 'fp32') {
    return backend.createLinear({ type, rows, cols, bias, weights: concatenate(parts, floatWeights) });
  }
  const quantized = parts.map(int8Weights);
  const codes = new Int8Array(rows * cols);
  quantized.reduce((from, part) => {
    codes.set(part.codes, from);
    return from + part.codes.length;
  }, 0);
  return backend.createLinear({ type, rows, cols, bias, codes, scales: concatenate(quantized, (part) => part.scales) });
}

/** What `auto` computes in. */
export function storedType(parts: readonly LinearWeights[]): 'fp32' | 'int8' | 'int4' {
  if (parts.every(({ type }) => type === 'int8')) return 'int8';
  const int4 = parts.filter(isInt4);
  return int4.length === parts.length && int4.every(({ group }) => group === int4[0]!.group) ? 'int4' : 'fp32';
}

type Int4Weights = Extract<LinearWeights, { readonly type: 'int4' }>;

function isInt4(part: LinearWeights): part is Int4Weights {
  return part.type === 'int4';
}

function floatWeights(given: LinearWeights): Float32Array {
  const part = widenInt4Linear(given);
  if (part.type === 'fp32') return part.weights;
  const { codes, scales, cols } = part;
  const weights = new Float32Array(codes.length);
  for (let row = 0; row < part.rows; row++) {
    for (let i = row * cols; i < (row + 1) * cols; i++) weights[i] = codes[i]! * scales[row]!;
  }
  return weights;
}

function int8Weights(given: LinearWeights): { codes: Int8Array; scales: Float32Array } {
  const part = widenInt4Linear(given);
  if (part.type === 'int8') return part;
  const { values, scales } = quantizePerTokenInt8(part.weights, part.cols);
  return { codes: values, scales };
}

function concatenate<T>(parts: readonly T[], read: (part: T) => Float32Array): Float32Array {
  const arrays = parts.map(read);
  if (arrays.length === 1) return arrays[0]!;
  const joined = new Float32Array(arrays.reduce((sum, array) => sum + array.length, 0));
  arrays.reduce((from, array) => {
    joined.set(array, from);
    return from + array.length;
  }, 0);
  return joined;
}
