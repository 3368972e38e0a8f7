import { BENCH_SHAPES } from '../bench/bench-shapes.js';
import { kvCacheBytes } from '../kv-cache-bytes.js';
import type { OnProgress } from '../progress-bar.js';
import type { BackendChoice, KvCacheDtype, Runtime } from '../runtime.js';

export interface KvFitRow {
  readonly model: string;
  readonly kvCacheDtype: KvCacheDtype;
  /** Of each sequence. */
  readonly tokens: number;
  readonly memoryBytes: number;
  readonly sequences: number;
  /** Sequences over those of fp16. */
  readonly timesFp16: number;
  /** Whether sequences were held until no more went in, or counted by the bytes of their pages. */
  readonly how: 'filled' | 'by bytes';
}

const DTYPES = ['fp32', 'fp16', 'int8', 'int4'] as const satisfies readonly KvCacheDtype[];
/** What an H200 has beside INT8 weights of 8 billion parameters, and room to work. */
const LARGE = { shape: 'llama-3.1-8b', tokens: 65536, memoryBytes: 128 * 2 ** 30 } as const;

/**
 * How many sequences a memory holds with each way of keeping keys and values: the shipped model's, filled until no more goes in, and those of a
 * large model, by the bytes that the same pages take there.
 */
export async function measureKvFit(
  runtime: Runtime,
  {
    folder,
    backend,
    memoryBytes,
    signal,
  }: {
    readonly folder: string;
    readonly backend: BackendChoice;
    /** 0: nothing is filled. */
    readonly memoryBytes: number;
    readonly signal: AbortSignal;
  },
  onProgress: OnProgress,
): Promise<KvFitRow[]> {
  const rows: Omit<KvFitRow, 'timesFp16'>[] = [];
  for (const [i, kvCacheDtype] of memoryBytes === 0 ? [] : DTYPES.entries()) {
    const attention = kvCacheDtype === 'int8' || kvCacheDtype === 'int4' ? 'int8' : 'fp32';
    const arithmetic = { backend, attention, kvCacheDtype, linear: 'auto' } as const;
    const model = await runtime.loadModel(folder, {
      ...arithmetic,
      kvCacheBytes: memoryBytes,
      prefixCache: false,
      signal,
    });
    try {
      const { name, contextLength: tokens } = model.facts;
      const sequences = await model.countSequences(signal);
      rows.push({ model: name, kvCacheDtype, tokens, memoryBytes, sequences, how: 'filled' });
    } finally {
      await model.dispose();
    }
    onProgress((i + 1) / DTYPES.length);
  }
  return [...rows, ...DTYPES.map(countLarge)].map((row, _, all) => {
    const fp16 = all.find(({ model, kvCacheDtype }) => model === row.model && kvCacheDtype === 'fp16')!;
    return { ...row, timesFp16: row.sequences / fp16.sequences };
  });
}

function countLarge(kvCacheDtype: KvCacheDtype): Omit<KvFitRow, 'timesFp16'> {
  const { num_hidden_layers: layers, num_key_value_heads: kvHeads, head_dim: headDim } = BENCH_SHAPES[LARGE.shape];
  const { shape: model, tokens, memoryBytes } = LARGE;
  const sequences = Math.floor(memoryBytes / kvCacheBytes({ layers, kvHeads, headDim }, kvCacheDtype, tokens));
  return { model, kvCacheDtype, tokens, memoryBytes, sequences, how: 'by bytes' };
}
