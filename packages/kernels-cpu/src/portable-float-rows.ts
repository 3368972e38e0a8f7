import { type FloatOperand, hostArray, IntFlashError, toFloat32 } from '@int-flash/ops';
import { LESS_AT_ONCE } from './less-at-once.js';

/** Elements that one step of a job handles: about a millisecond. */
export const STEP_ELEMENTS = 1 << 15;

/** A job pauses at every `yield`; whoever runs it decides whether to go on at once (sync) or later (async). */
export type Steps<T> = Generator<void, T>;

/**
 * Gathers `count` rows of one head into [count, dim] float32.
 *
 * @throws {IntFlashError} `ERR_NONFINITE`, naming the element; `ERR_OOM`.
 */
export function* gatherFloatRows(
  operand: FloatOperand,
  name: string,
  batch: number,
  head: number,
  start: number,
  count: number,
  dim: number,
): Steps<Float32Array<ArrayBuffer>> {
  const { data, strides, type } = operand;
  const rows = hostArray<Float32Array<ArrayBuffer>>(Float32Array, count * dim, `${name} rows`, LESS_AT_ONCE);
  const origin = batch * strides.batch + head * strides.head;
  const rowsPerStep = Math.max(1, Math.floor(STEP_ELEMENTS / dim));
  for (let from = 0; from < count; from += rowsPerStep) {
    const to = Math.min(from + rowsPerStep, count);
    for (let row = from; row < to; row++) {
      const at = origin + (start + row) * strides.token;
      toFloat32(data.subarray(at, at + dim), type, rows.subarray(row * dim, (row + 1) * dim));
    }
    const bad = findNonFinite(rows, from * dim, to * dim);
    if (bad >= 0) {
      const place = `batch ${batch}, head ${head}, token ${start + Math.floor(bad / dim)}, channel ${bad % dim}`;
      throw new IntFlashError('ERR_NONFINITE', `Expected ${name} to hold finite numbers, got ${rows[bad]} at ${place}`);
    }
    yield;
  }
  return rows;
}

function findNonFinite(values: Float32Array, from: number, to: number): number {
  for (let i = from; i < to; i++) if (!(Math.abs(values[i]!) < Infinity)) return i;
  return -1;
}

export function maxMagnitude(values: Float32Array): number {
  let max = 0;
  for (let i = 0; i < values.length; i++) {
    const magnitude = Math.abs(values[i]!);
    if (magnitude > max) max = magnitude;
  }
  return max;
}
