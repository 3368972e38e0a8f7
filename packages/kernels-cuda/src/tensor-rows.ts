import { type DataType, IntFlashError } from '@int-flash/ops';
import type { CudaTensor } from './cuda-tensor.js';
import { type DeviceContext, deviceJudge } from './device-context.js';
import { MAX_BYTES } from './strided-memory.js';

/** As native/read_request.cc has them. */
const MAX_BATCH = 2 ** 20;
const MAX_HEADS = 2 ** 30;
/** Zero strides let a few bytes stand for any number of rows, and native code counts the bytes that it makes of them in 64 bits. */
const MAX_ROWS = MAX_BYTES / 256; // what no row takes more than, padded as a quantizer pads it

/**
 * A tensor [.., tokens, dim] of rank 2 to 4 whose rows a call goes through one by one.
 *
 * @param perElement numbers that an element holds: 2 of packed codes.
 * @throws {IntFlashError} `ERR_OVERFLOW` for more than 2^38 rows; `ERR_ARG_TYPE`, `ERR_ARG_RANGE`, `ERR_SHAPE`, `ERR_UNSUPPORTED`.
 */
export function judgeRows(
  context: DeviceContext,
  tensor: CudaTensor,
  types: readonly DataType[],
  { perElement = 1 }: { readonly perElement?: 1 | 2 } = {},
) {
  const { type, dims, strides } = deviceJudge(tensor, 'tensor', types);
  const rank = dims.length;
  if (rank < 2 || rank > 4)
    throw new IntFlashError('ERR_SHAPE', `Expected tensor of rank 2 to 4, got dims [${dims.join(', ')}]`);
  const width = dims[rank - 1]!;
  const dim = width * perElement;
  if (dim < 8 || dim > 256 || dim % 8 !== 0)
    throw new IntFlashError(
      'ERR_UNSUPPORTED',
      `Expected rows whose length is a multiple of ${8 / perElement} up to ${256 / perElement}, got ${width}`,
    );
  if (strides[rank - 1] !== 1)
    throw new IntFlashError(
      'ERR_UNSUPPORTED',
      `Expected the last axis to be contiguous (stride 1), got stride ${strides[rank - 1]}`,
    );
  const [batch, heads] = [dims[rank - 4] ?? 1, dims[rank - 3] ?? 1];
  if (batch > MAX_BATCH || batch * heads > MAX_HEADS)
    throw new IntFlashError(
      'ERR_UNSUPPORTED',
      `Expected a first axis of at most 2^20 and 2^30 heads on CUDA, got leading axes ${batch} and ${heads}`,
    );
  const tokens = dims[rank - 2]!;
  if (batch * heads * tokens > MAX_ROWS)
    throw new IntFlashError(
      'ERR_OVERFLOW',
      `Expected at most 2^38 rows (2^46 bytes, 256 a row), got dims [${dims.join(', ')}]`,
    );
  const request = {
    data: tensor.nativeSource(context.device),
    batch,
    heads,
    tokens,
    dim,
    strides: { batch: strides[rank - 4] ?? 0, head: strides[rank - 3] ?? 0, token: strides[rank - 2]! },
  };
  return { type, dims, request };
}
