import { IntFlashError } from '@int-flash/ops';

type Numbers = ArrayLike<number>;

function checkLengths(actual: Numbers, expected: Numbers): void {
  if (actual.length !== expected.length) {
    throw new IntFlashError('ERR_SHAPE', `Expected ${expected.length} numbers, got ${actual.length}`);
  }
}

/** `‖actual - expected‖₂ / ‖expected‖₂`; 0 / 0 counts as 0. The metric of every accuracy table here. */
export function relativeL2(actual: Numbers, expected: Numbers): number {
  checkLengths(actual, expected);
  let error = 0;
  let norm = 0;
  for (let i = 0; i < expected.length; i++) {
    error += (actual[i]! - expected[i]!) ** 2;
    norm += expected[i]! ** 2;
  }
  return error === 0 ? 0 : Math.sqrt(error / norm);
}

/** Cosine of the angle between the two, taken as vectors; 1 = same direction. */
export function cosine(actual: Numbers, expected: Numbers): number {
  checkLengths(actual, expected);
  let dot = 0;
  let a = 0;
  let b = 0;
  for (let i = 0; i < expected.length; i++) {
    dot += actual[i]! * expected[i]!;
    a += actual[i]! ** 2;
    b += expected[i]! ** 2;
  }
  return dot / Math.sqrt(a * b);
}

/** Root of the mean squared difference. */
export function rmse(actual: Numbers, expected: Numbers): number {
  checkLengths(actual, expected);
  let error = 0;
  for (let i = 0; i < expected.length; i++) error += (actual[i]! - expected[i]!) ** 2;
  return Math.sqrt(error / Math.max(expected.length, 1));
}

export interface WorstElement {
  /** |actual - expected|; NaN in `actual` counts as Infinity. */
  readonly error: number;
  /** Flat index, -1 when there are no elements. */
  readonly index: number;
  /** The same as coordinates in `dims`. */
  readonly coordinates: readonly number[];
  readonly actual: number;
  readonly expected: number;
}

/** The element furthest from its reference, with its coordinates in `dims` (row-major). */
export function worstElement(actual: Numbers, expected: Numbers, dims: readonly number[]): WorstElement {
  checkLengths(actual, expected);
  let index = -1;
  let error = -1;
  for (let i = 0; i < expected.length; i++) {
    if (actual[i] === expected[i]) continue; // also equal infinities, whose difference is NaN
    const difference = Math.abs(actual[i]! - expected[i]!);
    const distance = Number.isNaN(difference) ? Infinity : difference;
    if (distance > error) [error, index] = [distance, i];
  }
  if (index < 0) return { error: 0, index, coordinates: [], actual: Number.NaN, expected: Number.NaN };
  const coordinates = new Array<number>(dims.length);
  let rest = index;
  for (let axis = dims.length - 1; axis >= 0; axis--) {
    coordinates[axis] = rest % dims[axis]!;
    rest = Math.floor(rest / dims[axis]!);
  }
  return { error, index, coordinates, actual: actual[index]!, expected: expected[index]! };
}

/** Mean over all elements of `|actual - expected| / (|expected| + epsilon)`; epsilon keeps zeros of the reference from deciding it. */
export function meanRelativeError(actual: Numbers, expected: Numbers, epsilon = 1e-5): number {
  checkLengths(actual, expected);
  let sum = 0;
  for (let i = 0; i < expected.length; i++)
    sum += Math.abs(actual[i]! - expected[i]!) / (Math.abs(expected[i]!) + epsilon);
  return sum / Math.max(expected.length, 1);
}

/**
 * The mean relative error as INT-FlashAttention's published script computes it: over the **last four values** only. Kept to reproduce
 * the paper's table; over 16 seeds it ranges from 0.1% to 4%, so nothing else here relies on it.
 */
export function paperMre(actual: Numbers, expected: Numbers): number {
  checkLengths(actual, expected);
  const from = Math.max(0, expected.length - 4);
  let sum = 0;
  for (let i = from; i < expected.length; i++)
    sum += Math.abs(actual[i]! - expected[i]!) / (Math.abs(expected[i]!) + 1e-5);
  return sum / Math.max(expected.length - from, 1);
}

/** The `quantile` (0.99 by default) of the rows' relative L2 errors, by nearest rank; rows are `dim` long. */
export function rowErrorQuantile(actual: Numbers, expected: Numbers, dim: number, quantile = 0.99): number {
  checkLengths(actual, expected);
  const rows = expected.length / dim;
  if (!Number.isInteger(rows) || rows < 1) {
    throw new IntFlashError('ERR_SHAPE', `Expected whole rows of ${dim}, got ${expected.length} numbers`);
  }
  const errors = Array.from({ length: rows }, (_, row) => {
    const slice = (numbers: Numbers) => Array.prototype.slice.call(numbers, row * dim, (row + 1) * dim);
    return relativeL2(slice(actual), slice(expected));
  }).sort((a, b) => a - b);
  return errors[Math.min(rows - 1, Math.ceil(quantile * rows) - 1)]!;
}
