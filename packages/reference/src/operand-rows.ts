import { type FloatOperand, type HostArrayKind, hostArray, type RowStrides, toFloat32 } from '@int-flash/ops';

/** Element index of row (batch, head, token). */
export function rowOffset(strides: RowStrides, batch: number, head: number, token: number): number {
  return batch * strides.batch + head * strides.head + token * strides.token;
}

/** Rows [start, start + count) of one (batch, head) as a contiguous [count, dim] array; 16-bit floats are widened. */
export function gatherFloatRows(
  { type, data, strides }: FloatOperand,
  batch: number,
  head: number,
  start: number,
  count: number,
  dim: number,
): Float32Array {
  const rows = hostArray(Float32Array, count * dim, 'rows of an operand');
  for (let row = 0; row < count; row++) {
    const from = rowOffset(strides, batch, head, start + row);
    toFloat32(data.subarray(from, from + dim), type, rows.subarray(row * dim, (row + 1) * dim));
  }
  return rows;
}

/** The same for codes, or for scales with `dim` 1. */
export function gatherRows<T extends Int8Array | Float32Array>(
  { data, strides }: { readonly data: T; readonly strides: RowStrides },
  batch: number,
  head: number,
  start: number,
  count: number,
  dim: number,
): T {
  const rows = hostArray(data.constructor as unknown as HostArrayKind<T>, count * dim, 'rows of an operand');
  for (let row = 0; row < count; row++) {
    const from = rowOffset(strides, batch, head, start + row);
    for (let d = 0; d < dim; d++) rows[row * dim + d] = data[from + d]!;
  }
  return rows;
}
