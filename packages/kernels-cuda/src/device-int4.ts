import { checkOptions, checkSignal, readArguments } from '@int-flash/ops';
import { type CudaStream, checkStream } from './cuda-stream.js';
import type { CudaTensor } from './cuda-tensor.js';
import { type DeviceContext, madeTensor } from './device-context.js';
import { withAbortFlag } from './native-error.js';
import { judgeRows } from './tensor-rows.js';

export interface Int4Options {
  readonly stream?: CudaStream;
  readonly signal?: AbortSignal;
}

/** Codes [.., dim] of a byte each to [.., dim / 2] uint8: the bits of quant's `packInt4`. */
export async function packOnDevice(context: DeviceContext, codes: CudaTensor, options: object): Promise<CudaTensor> {
  context.expectOpen();
  const { dims, request, signal } = readArguments(() => int4Call(context, codes, 'int8', options));
  const packed = await withAbortFlag(context.addon, signal, (abortFlag) =>
    context.addon.packInt4(context.device, { ...request, recording: context.recording, abortFlag }),
  );
  return madeTensor(context, packed, 'uint8', withLast(dims, request.dim / 2));
}

/** Packed codes [.., dim / 2] to [.., dim] int8: the bits of quant's `unpackInt4`. */
export async function unpackOnDevice(context: DeviceContext, packed: CudaTensor, options: object): Promise<CudaTensor> {
  context.expectOpen();
  const { dims, request, signal } = readArguments(() => int4Call(context, packed, 'uint8', options));
  const codes = await withAbortFlag(context.addon, signal, (abortFlag) =>
    context.addon.unpackInt4(context.device, { ...request, recording: context.recording, abortFlag }),
  );
  return madeTensor(context, codes, 'int8', withLast(dims, request.dim));
}

function int4Call(context: DeviceContext, tensor: CudaTensor, type: 'int8' | 'uint8', options: object) {
  const given = checkOptions(options, context.recording ? [] : ['stream', 'signal'], 'options');
  const signal = checkSignal(given.signal);
  const { dims, request } = judgeRows(context, tensor, [type], { perElement: type === 'uint8' ? 2 : 1 });
  return { dims, request: { ...request, stream: checkStream(given.stream, context.device) }, signal };
}

function withLast(dims: readonly number[], last: number): number[] {
  return [...dims.slice(0, -1), last];
}
