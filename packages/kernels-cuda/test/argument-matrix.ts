import { ERROR_CODES, IntFlashError } from '@int-flash/ops';
import { type CudaDevice, openCudaDevice } from '../src/cuda-device.js';
import type { CudaEvent } from '../src/cuda-event.js';
import type { CudaGraph } from '../src/cuda-graph.js';
import type { CudaStream } from '../src/cuda-stream.js';
import type { CudaTensor } from '../src/cuda-tensor.js';

/** One of each kind of thing that is nowhere a right argument, or only seldom. */
export function strangeValues(): unknown[] {
  const revoked = Proxy.revocable({}, {});
  revoked.revoke();
  const detached = new Float32Array(4);
  structuredClone(detached, { transfer: [detached.buffer] });
  const resizable = new Float32Array(Reflect.construct(ArrayBuffer, [16, { maxByteLength: 32 }]));
  return [
    null,
    true,
    -1,
    1.5,
    Number.NaN,
    Infinity,
    2 ** 53,
    '',
    'fp8',
    10n,
    Symbol('s'),
    () => 0,
    [],
    [-1],
    [1.5],
    ['x'],
    [null, null],
    [2 ** 53, 2 ** 53],
    new Array(9).fill(1),
    { dims: 3 },
    { type: 'float32', dims: [2, 2], data: new Float32Array(3) },
    { type: 'int4', dims: [2], data: new Uint8Array(1) },
    new Date(0),
    new Map([['stream', 1]]),
    new DataView(new ArrayBuffer(8)),
    new BigInt64Array(2),
    new Float64Array(2),
    new Float32Array(3),
    new Float32Array(new SharedArrayBuffer(8)),
    resizable,
    detached,
    revoked.proxy,
    new Error('no argument'),
  ];
}

/** Whether looking at a value does not throw. */
export function isReadable(value: unknown): boolean {
  try {
    return Object.prototype.toString.call(value) !== '';
  } catch {
    return false;
  }
}

/** A function with one argument open. */
export interface Position {
  readonly name: string;
  readonly call: (value: never) => unknown;
}

export interface Things {
  readonly device: CudaDevice;
  readonly tensor: CudaTensor; // float32 [1, 2, 8, 16]
  readonly codes: CudaTensor; // int8 [1, 2, 8, 16]
  readonly scales: CudaTensor; // float32 [1, 2, 8]
  readonly packed: CudaTensor; // uint8 [1, 2, 8, 8]
  readonly stream: CudaStream;
  readonly event: CudaEvent;
  readonly graph: CudaGraph;
}

const ATTENTION_OPTIONS = [
  'precision',
  'isCausal',
  'causalAlignment',
  'scale',
  'attnMask',
  'tensorLayout',
  'enableGqa',
  'windowSize',
  'softcap',
  'returnLse',
  'outType',
  'cuSeqlensQ',
  'maxSeqlenK',
  'signal',
  'repeats',
  'stream',
];

const TIMING = {
  sequences: 1,
  length: 70,
  heads: 2,
  kvHeads: 1,
  headDim: 64,
  int4: false,
  runs: false,
  repeats: 1,
};

/** Every public function of this package that takes arguments, in groups, each argument and each option in turn. */
export function publicPositions({ device, tensor, codes, scales, packed, stream, event, graph }: Things) {
  const inputs = { query: tensor, key: tensor, value: tensor };
  const half = { q: codes, k: codes, v: tensor, qScale: scales, kScale: scales };
  const quantized = { q: codes, k: codes, v: codes, qScale: scales, kScale: scales, vScale: scales };
  const options = (names: readonly string[], call: (options: never) => unknown): Position[] =>
    names.map((name) => ({ name, call: (value) => call({ [name]: value } as never) }));
  return {
    'attention()': [
      { name: 'inputs', call: (value) => device.attention(value) },
      ...['query', 'key', 'value'].map((name) => ({
        name,
        call: (value: never) => device.attention({ ...inputs, [name]: value }),
      })),
      { name: 'options', call: (value) => device.attention(inputs, value) },
      ...options(ATTENTION_OPTIONS, (given) => device.attention(inputs, given)),
    ],
    'quantizedAttention() and quantize()': [
      { name: 'inputs', call: (value) => device.quantizedAttention(value) },
      ...[...Object.keys(quantized), 'vChannelScale'].map((name) => ({
        name,
        call: (value: never) => device.quantizedAttention({ ...quantized, [name]: value }),
      })),
      { name: 'options', call: (value) => device.quantizedAttention(quantized, value) },
      { name: 'tensor', call: (value) => device.quantize(value) },
      { name: 'options', call: (value) => device.quantize(tensor, value) },
      ...options(['bits', 'granularity', 'smoothK', 'stream', 'signal'], (given) => device.quantize(tensor, given)),
    ],
    'half-int8 on codes, packInt4() and unpackInt4()': [
      { name: 'inputs', call: (value) => device.quantizedAttention(value, { precision: 'half-int8' }) },
      ...[...Object.keys(half), 'vScale', 'vChannelScale'].map((name) => ({
        name,
        call: (value: never) => device.quantizedAttention({ ...half, [name]: value }, { precision: 'half-int8' }),
      })),
      { name: 'codes', call: (value) => device.packInt4(value) },
      { name: 'options', call: (value) => device.packInt4(codes, value) },
      ...options(['stream', 'signal'], (given) => device.packInt4(codes, given)),
      { name: 'packed', call: (value) => device.unpackInt4(value) },
      { name: 'options', call: (value) => device.unpackInt4(packed, value) },
      ...options(['stream', 'signal'], (given) => device.unpackInt4(packed, given)),
    ],
    CudaDevice: [
      { name: 'openCudaDevice', call: (value) => openCudaDevice(value) },
      { name: 'upload tensor', call: (value) => device.upload(value) },
      {
        name: 'upload options',
        call: (value) => device.upload({ type: 'int8', dims: [1], data: new Int8Array(1) }, value),
      },
      ...['type', 'dims', 'data', 'strides'].map((name) => ({
        name: `upload ${name}`,
        call: (value: never) => device.upload({ type: 'float32', dims: [2], data: new Float32Array(2), [name]: value }),
      })),
      { name: 'empty type', call: (value) => device.empty(value, [2]) },
      { name: 'empty dims', call: (value) => device.empty('float32', value) },
      { name: 'empty dims[0]', call: (value) => device.empty('float32', [value]) },
      { name: 'pinned type', call: (value) => device.pinned(value, 4) },
      { name: 'pinned length', call: (value) => device.pinned('int8', value) },
      { name: 'compare actual', call: (value) => device.compare(value, tensor) },
      { name: 'compare expected', call: (value) => device.compare(tensor, value) },
      { name: 'capture', call: (value) => device.capture(value) },
      { name: 'timeCopy bytes', call: (value) => device.timeCopy(value, 1) },
      { name: 'timeCacheAttention', call: (value) => device.timeCacheAttention(value) },
      ...Object.keys(TIMING).map((name) => ({
        name: `timeCacheAttention ${name}`,
        call: (value: never) => device.timeCacheAttention({ ...TIMING, [name]: value }),
      })),
    ],
    CudaTensor: [
      { name: 'view dims', call: (value) => tensor.view(value) },
      { name: 'view dims[1]', call: (value) => tensor.view([1, value]) },
      { name: 'view options', call: (value) => tensor.view([1], value) },
      ...options(['elementOffset', 'strides'], (given) => tensor.view([2], given)),
      { name: 'slice axis', call: (value) => tensor.slice(value, 0) },
      { name: 'slice start', call: (value) => tensor.slice(0, value) },
      { name: 'slice end', call: (value) => tensor.slice(0, 0, value) },
      { name: 'reshape dims', call: (value) => tensor.reshape(value) },
      { name: 'transpose axisA', call: (value) => tensor.transpose(value, 0) },
      { name: 'transpose axisB', call: (value) => tensor.transpose(0, value) },
      { name: 'download options', call: (value) => tensor.download(value) },
      ...options(['into', 'stream'], (given) => tensor.download(given)),
      { name: 'write source', call: (value) => tensor.write(value) },
      { name: 'write options', call: (value) => tensor.write(tensor, value) },
    ],
    'streams, events, graphs': [
      { name: 'wait', call: (value) => stream.wait(value) },
      { name: 'millisecondsSince', call: (value) => event.millisecondsSince(value) },
      { name: 'replay', call: (value) => graph.replay(value) },
      ...options(['repeats', 'stream', 'signal'], (given) => graph.replay(given)),
      {
        name: 'upload stream',
        call: (value) => device.upload({ type: 'int8', dims: [0], data: new Int8Array(0) }, { stream: value }),
      },
      { name: 'write stream', call: (value) => tensor.write(tensor, { stream: value }) },
      { name: 'exactAttention stream', call: (value) => device.exactAttention(inputs, { stream: value }) },
      { name: 'exactAttention signal', call: (value) => device.exactAttention(inputs, { signal: value }) },
      { name: 'quantizedAttention stream', call: (value) => device.quantizedAttention(quantized, { stream: value }) },
      { name: 'quantizedAttention signal', call: (value) => device.quantizedAttention(quantized, { signal: value }) },
    ],
  } satisfies Record<string, readonly Position[]>;
}

export interface Verdict {
  /** Calls that were refused with a code of the closed list. */
  refused: number;
  /** Calls that the value suited after all. */
  accepted: number;
  /** Whatever else happened. */
  readonly untyped: string[];
}

/** Calls each position with each value. @param isTyped what counts as a typed error */
export async function provoke(
  positions: readonly Position[],
  values: readonly unknown[],
  isTyped: (error: unknown) => boolean = (error) => IntFlashError.isInstance(error) && ERROR_CODES.includes(error.code),
): Promise<Verdict> {
  const verdict: Verdict = { refused: 0, accepted: 0, untyped: [] };
  for (const { name, call } of positions) {
    for (const [index, value] of values.entries()) {
      try {
        const result = await call(value as never);
        verdict.accepted++;
        for (const owned of [result, ...Object.values(result ?? {})])
          (owned as { dispose?: () => void } | undefined)?.dispose?.();
      } catch (error) {
        const message = String((error as Error)?.message);
        if (isTyped(error) && !/0x[0-9a-f]{6,}/i.test(message)) verdict.refused++;
        else verdict.untyped.push(`${name} with value ${index}: ${message}`);
      }
    }
  }
  return verdict;
}
