import { type FloatOperand, fromFloat32, IntFlashError, toFloat32 } from '@int-flash/ops';

const MAX_FLOAT16 = 65504;
/** Elements that one step of a job handles at most: about a millisecond. */
const STEP_ELEMENTS = 1 << 17;

/** A job pauses at every `yield`; whoever runs it decides whether to go on at once (sync) or later (async). */
export type Steps<T> = Generator<void, T>;

/**
 * Gathers `count` rows of one head into [count, dim] float32.
 *
 * @throws {IntFlashError} `ERR_NONFINITE`, naming the element.
 */
export function* gatherFloatRows(
  operand: FloatOperand,
  name: string,
  batch: number,
  head: number,
  start: number,
  count: number,
  dim: number,
): Steps<Float32Array> {
  const { data, strides, type } = operand;
  const rows = new Float32Array(count * dim);
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

/** Rounds `values` to float16 and back, in place. @throws {IntFlashError} `ERR_OVERFLOW` above 65504. */
export function* roundToFloat16(values: Float32Array): Steps<void> {
  for (let from = 0; from < values.length; from += STEP_ELEMENTS / 4) {
    const part = values.subarray(from, from + STEP_ELEMENTS / 4);
    if (maxMagnitude(part) > MAX_FLOAT16) {
      throw new IntFlashError(
        'ERR_OVERFLOW',
        `Expected |value| of at most ${MAX_FLOAT16} for half-int8, got ${maxMagnitude(part)}`,
        {
          hint: 'float16 holds no more; use full-int8 or scale the values down.',
        },
      );
    }
    part.set(toFloat32(fromFloat32(part, 'float16'), 'float16'));
    yield;
  }
}

export function maxMagnitude(values: Float32Array): number {
  let max = 0;
  for (let i = 0; i < values.length; i++) {
    const magnitude = Math.abs(values[i]!);
    if (magnitude > max) max = magnitude;
  }
  return max;
}
