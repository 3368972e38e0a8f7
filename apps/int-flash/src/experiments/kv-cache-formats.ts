import { quantizeFittedInt4 } from '@int-flash/llm';
import { judgeAttention } from '@int-flash/ops';
import {
  dequantizeKv,
  dequantizePerTokenInt4,
  dequantizePerTokenInt8,
  hadamardRotate,
  type KvCacheFormat,
  quantizeKv,
  quantizePerTokenInt8,
  smoothK,
} from '@int-flash/quant';
import {
  type InputFamily,
  makeInputs,
  relativeL2,
  runStepsInSlices,
  softmaxAttentionSteps,
} from '@int-flash/reference';
import type { OnProgress } from '../progress-bar.js';

/** A head's keys and values after the cache, and what the cache allocated for them. */
interface Stored {
  readonly keys: Float32Array;
  readonly values: Float32Array;
  readonly bytes: number;
}

type Store = (keys: Float32Array, values: Float32Array, dim: number) => Stored;

/** Ours as the runtime's cache keeps them; the others as published. */
const FORMATS: readonly { readonly name: string; readonly store: Store }[] = [
  { name: 'fp32', store: (keys, values) => ({ keys, values, bytes: keys.byteLength + values.byteLength }) },
  { name: 'ours INT8: per token, keys less their mean', store: storeInt8 },
  { name: 'ours INT4: per token, less mean, rotated, fitted', store: storeInt4 },
  { name: 'INT8 per channel (arXiv 2601.04719)', store: storeAs('int8-per-channel') },
  { name: 'KIVI, 8 bits (after arXiv 2402.02750)', store: storeAs('kivi-int8') },
  { name: 'KIVI, 4 bits (after arXiv 2402.02750)', store: storeAs('kivi-int4') },
];

/** The runtime counts a mean a head and layer, not a token: it does not grow with the cache. */
export interface KvFormatRow {
  readonly format: string;
  readonly distribution: InputFamily;
  readonly bytesPerToken: number;
  /** Bytes of fp32 over bytes of this. */
  readonly smallerThanFp32: number;
  readonly keyError: number;
  readonly valueError: number;
  /** Relative L2 of softmax attention on the stored keys and values. */
  readonly attentionError: number;
}

export interface KvFormatTable {
  readonly tokens: number;
  readonly headDim: number;
  readonly queries: number;
  readonly rows: readonly KvFormatRow[];
}

const DISTRIBUTIONS: readonly InputFamily[] = ['normal', 'kbias', 'vout', 'sink'];

/** What each format makes of a head's keys and values, and of float64 attention on them. */
export async function measureKvFormats(
  shape: { readonly tokens: number; readonly headDim: number; readonly queries: number },
  signal: AbortSignal,
  onProgress: OnProgress,
): Promise<KvFormatTable> {
  const { tokens, headDim, queries } = shape;
  const rows: KvFormatRow[] = [];
  for (const [step, distribution] of DISTRIBUTIONS.entries()) {
    const inputs = makeInputs(distribution, { heads: 1, queries, keys: tokens, headDim });
    const exact = await attend(inputs, signal);
    for (const { name, store } of FORMATS) {
      const { keys, values, bytes } = store(inputs.key.data, inputs.value.data, headDim);
      const stored = { ...inputs, key: { ...inputs.key, data: keys }, value: { ...inputs.value, data: values } };
      rows.push({
        format: name,
        distribution,
        bytesPerToken: bytes / tokens,
        smallerThanFp32: (inputs.key.data.byteLength + inputs.value.data.byteLength) / bytes,
        keyError: relativeL2(keys, inputs.key.data),
        valueError: relativeL2(values, inputs.value.data),
        attentionError: relativeL2(await attend(stored, signal), exact),
      });
    }
    onProgress((step + 1) / DISTRIBUTIONS.length);
  }
  return { ...shape, rows };
}

async function attend(inputs: Parameters<typeof judgeAttention>[0], signal: AbortSignal): Promise<Float64Array> {
  return (await runStepsInSlices(softmaxAttentionSteps(judgeAttention(inputs)), signal)).out;
}

function storeAs(format: KvCacheFormat): Store {
  return (keys, values, dim) => {
    const quantized = quantizeKv(format, keys, values, dim);
    return { ...dequantizeKv(quantized), bytes: allocatedBytes(quantized) };
  };
}

function storeInt8(keys: Float32Array, values: Float32Array, dim: number): Stored {
  const smoothed = smoothK(keys, dim);
  const [k, v] = [quantizePerTokenInt8(smoothed.values, dim), quantizePerTokenInt8(values, dim)];
  return {
    keys: addRow(dequantizePerTokenInt8(k, dim), smoothed.mean),
    values: dequantizePerTokenInt8(v, dim),
    bytes: allocatedBytes([k, v]),
  };
}

function storeInt4(keys: Float32Array, values: Float32Array, dim: number): Stored {
  const smoothed = smoothK(keys, dim);
  const k = quantizeFittedInt4(hadamardRotate(smoothed.values, dim), dim);
  const v = quantizeFittedInt4(hadamardRotate(values, dim), dim);
  const restore = (codes: typeof k) => hadamardRotate(dequantizePerTokenInt4(codes, dim), dim); // its own inverse
  return { keys: addRow(restore(k), smoothed.mean), values: restore(v), bytes: allocatedBytes([k, v]) };
}

function addRow(rows: Float32Array, row: Float32Array): Float32Array {
  return rows.map((x, i) => x + row[i % row.length]!);
}

/** Bytes of every array that a value holds, at any depth. */
export function allocatedBytes(value: unknown): number {
  if (ArrayBuffer.isView(value)) return value.byteLength;
  if (typeof value !== 'object' || value === null) return 0;
  return Object.values(value).reduce((sum: number, part) => sum + allocatedBytes(part), 0);
}
