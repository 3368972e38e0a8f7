import { KV_PAGE_TOKENS } from '@int-flash/ops';
import { BENCH_SHAPES } from '../bench/bench-shapes.js';
import type { OnProgress } from '../progress-bar.js';
import type { BackendChoice, KvCacheDtype, LoadSettings, Model, Runtime } from '../runtime.js';
import { loadCudaPackage } from './cuda-package.js';

export interface KvFitRow {
  readonly model: string;
  readonly kvCacheDtype: KvCacheDtype;
  /** Of each sequence. */
  readonly tokens: number;
  readonly memoryBytes: number;
  /** Not whole ones where they were not counted. */
  readonly sequences: number;
  /** Sequences over those that fp16 has in as much memory, whole ones over whole ones where they were counted. */
  readonly timesFp16: number;
  /**
   * Whether sequences were held until no more went in; or a GPU's memory was filled with shorter ones, and the memory is what its driver
   * gave away; or they are told from the bytes that a page took.
   */
  readonly how: 'filled' | 'GPU filled' | 'by bytes';
}

const DTYPES = ['fp32', 'fp16', 'int8', 'int4'] as const satisfies readonly KvCacheDtype[];
/** What an H200 has beside INT8 weights of 8 billion parameters, and room to work. */
const LARGE = { shape: 'llama-3.1-8b', tokens: 65536, memoryBytes: 128 * 2 ** 30 } as const;
/** A model whose cache is that one's, and nothing else: as many layers and heads with keys and values, as wide. */
const CACHE_SHAPE = {
  ...BENCH_SHAPES[LARGE.shape],
  vocab_size: 256,
  hidden_size: 64,
  num_attention_heads: BENCH_SHAPES[LARGE.shape].num_key_value_heads,
  intermediate_size: 64,
  max_position_embeddings: LARGE.tokens,
  tie_word_embeddings: true,
};
/** What is filled of a GPU's memory, or half of what is free: with shorter sequences, since the attention of long ones takes minutes. */
const GPU_BYTES = 16 * 2 ** 30;
const SHORT_TOKENS = 8192;

interface FitSettings {
  readonly folder: string;
  readonly backend: BackendChoice;
  /** For the shipped model; 0: it is left out. */
  readonly memoryBytes: number;
  readonly signal: AbortSignal;
}

/**
 * How many sequences a memory holds with each way of keeping keys and values: the shipped model's, filled until no more goes in, and those of a
 * large model, by the bytes that its pages take where the backend allocates them, and on a GPU by filling it.
 */
export async function measureKvFit(
  runtime: Runtime,
  settings: FitSettings,
  onProgress: OnProgress,
): Promise<KvFitRow[]> {
  const fills = settings.memoryBytes > 0;
  const steps = DTYPES.length * (fills ? 2 : 1);
  const shipped: Omit<KvFitRow, 'timesFp16'>[] = [];
  for (const [i, kvCacheDtype] of fills ? DTYPES.entries() : []) {
    shipped.push(await fillShipped(runtime, settings, kvCacheDtype));
    onProgress((i + 1) / steps);
  }
  const large: KvFitRow[] = [];
  let fp16Bytes = Number.NaN;
  // fp16 first, which the others are compared with.
  for (const [i, kvCacheDtype] of (['fp16', 'fp32', 'int8', 'int4'] as const).entries()) {
    const { sequenceBytes, filled } = await measureLarge(runtime, settings, kvCacheDtype);
    if (kvCacheDtype === 'fp16') fp16Bytes = sequenceBytes;
    const row = { model: LARGE.shape, kvCacheDtype, tokens: LARGE.tokens };
    const { memoryBytes } = LARGE;
    const byBytes = { memoryBytes, sequences: memoryBytes / sequenceBytes, how: 'by bytes' } as const;
    for (const found of [byBytes, ...(filled ? [{ ...filled, how: 'GPU filled' } as const] : [])])
      large.push({ ...row, ...found, timesFp16: (found.sequences * fp16Bytes) / found.memoryBytes });
    onProgress((steps - DTYPES.length + i + 1) / steps);
  }
  const fp16 = shipped.find(({ kvCacheDtype }) => kvCacheDtype === 'fp16');
  return [
    ...shipped.map((row) => ({ ...row, timesFp16: row.sequences / fp16!.sequences })),
    ...DTYPES.flatMap((dtype) => large.filter(({ kvCacheDtype }) => kvCacheDtype === dtype)),
  ];
}

async function fillShipped(
  runtime: Runtime,
  { folder, backend, memoryBytes, signal }: FitSettings,
  kvCacheDtype: KvCacheDtype,
): Promise<Omit<KvFitRow, 'timesFp16'>> {
  const loading = { ...arithmetic(backend, kvCacheDtype), kvCacheBytes: memoryBytes, signal };
  const model = await runtime.loadModel(folder, loading);
  try {
    const { name, contextLength: tokens } = model.facts;
    const sequences = await model.countSequences(signal);
    return { model: name, kvCacheDtype, tokens, memoryBytes, sequences, how: 'filled' };
  } finally {
    await model.dispose();
  }
}

async function measureLarge(runtime: Runtime, settings: FitSettings, kvCacheDtype: KvCacheDtype) {
  const model = await loadLarge(runtime, settings, kvCacheDtype);
  let sequenceBytes: number;
  try {
    const first = await model.sequenceBytes(KV_PAGE_TOKENS);
    const pages = 4;
    const pageBytes = ((await model.sequenceBytes((1 + pages) * KV_PAGE_TOKENS)) - first) / pages;
    sequenceBytes = first + (LARGE.tokens / KV_PAGE_TOKENS - 1) * pageBytes;
  } finally {
    await model.dispose();
  }
  const fills = model.backend.name === 'cuda' && model.attention === 'int8';
  return { sequenceBytes, filled: fills ? await fillGpu(runtime, settings, kvCacheDtype) : undefined };
}

/** Fills a part of a GPU's memory, and asks the driver what is gone. */
async function fillGpu(
  runtime: Runtime,
  settings: FitSettings,
  kvCacheDtype: KvCacheDtype,
): Promise<Pick<KvFitRow, 'memoryBytes' | 'sequences'>> {
  await using device = loadCudaPackage().openCudaDevice();
  const kvCacheBytes = Math.min(GPU_BYTES, Math.floor((await device.memory()).free / 2));
  const model = await loadLarge(runtime, settings, kvCacheDtype, kvCacheBytes);
  try {
    // With the first one comes what steps take besides.
    const free = new Map<number, number>();
    let last = 0;
    const watch = async (sequences: number, isFull: boolean) => {
      if (sequences > 1 && !isFull) return;
      free.set(sequences, (await device.memory()).free);
      last = sequences;
    };
    await model.countSequences(settings.signal, { tokens: SHORT_TOKENS, watch });
    return { memoryBytes: free.get(1)! - free.get(last)!, sequences: ((last - 1) * SHORT_TOKENS) / LARGE.tokens };
  } finally {
    await model.dispose();
  }
}

function loadLarge(
  runtime: Runtime,
  { backend, signal }: FitSettings,
  kvCacheDtype: KvCacheDtype,
  kvCacheBytes?: number,
): Promise<Model> {
  return runtime.loadRandomModel(LARGE.shape, CACHE_SHAPE, {
    ...arithmetic(backend, kvCacheDtype),
    ...(kvCacheBytes !== undefined && { kvCacheBytes }),
    signal,
  });
}

function arithmetic(backend: BackendChoice, kvCacheDtype: KvCacheDtype): LoadSettings {
  const attention = kvCacheDtype === 'int8' || kvCacheDtype === 'int4' ? 'int8' : 'fp32';
  return { backend, attention, kvCacheDtype, linear: 'auto', prefixCache: false };
}
