import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { OnProgress } from '../progress-bar.js';
import type { BackendChoice, KvCacheDtype, Runtime } from '../runtime.js';

/** The model's held-out texts, next to its weights. */
const TEXTS = ['eval_sgd.txt', 'eval_oz.txt'] as const;

export interface KvModelRow {
  readonly text: string;
  readonly attention: 'fp32' | 'int8';
  readonly kvCacheDtype: KvCacheDtype;
  readonly tokens: number;
  readonly perplexity: number;
  /** Against a cache in fp16 with fp32 attention on the same text: 0.01 = 1% worse. */
  readonly perplexityChange: number;
  /** Of the cache that read the first window, as allocated … */
  readonly cacheBytes: number;
  /** … and how much smaller than those in fp32 and fp16. */
  readonly smallerThanFp32: number;
  readonly smallerThanFp16: number;
}

export interface KvModelTable {
  readonly model: string;
  /** Tokens read at a time. */
  readonly window: number;
  readonly rows: readonly KvModelRow[];
}

export interface KvModelSettings {
  readonly folder: string;
  readonly backend: BackendChoice;
  /** Of each text; absent: all of it. */
  readonly characters?: number;
  readonly signal: AbortSignal;
}

const WAYS = [
  { attention: 'fp32', kvCacheDtype: 'fp32' },
  { attention: 'fp32', kvCacheDtype: 'fp16' },
  { attention: 'int8', kvCacheDtype: 'int8' },
  { attention: 'int8', kvCacheDtype: 'int4' },
] as const;

/** How well a model reads its held-out texts with each way of keeping keys and values, and what the cache takes. */
export async function measureKvModel(
  runtime: Runtime,
  { folder, backend, characters, signal }: KvModelSettings,
  onProgress: OnProgress,
): Promise<KvModelTable> {
  const rows: Omit<KvModelRow, 'perplexityChange' | 'smallerThanFp32' | 'smallerThanFp16'>[] = [];
  let name = '';
  let window = 0;
  for (const [way, { attention, kvCacheDtype }] of WAYS.entries()) {
    const model = await runtime.loadModel(folder, { backend, attention, kvCacheDtype, linear: 'auto', signal });
    try {
      name = model.facts.name;
      window = Math.min(1024, model.facts.contextLength);
      for (const [i, text] of TEXTS.entries()) {
        const content = (await readFile(join(folder, text), 'utf8')).slice(0, characters);
        let cacheBytes = 0;
        const result = await model.perplexity(content, window, signal, (fraction) => {
          cacheBytes = Math.max(cacheBytes, model.kvCacheBytes());
          onProgress((way + (i + fraction) / TEXTS.length) / WAYS.length);
        });
        rows.push({
          text,
          attention,
          kvCacheDtype,
          tokens: result.tokens,
          perplexity: result.perplexity,
          cacheBytes,
        });
      }
    } finally {
      await model.dispose();
    }
  }
  const judged = rows.map((row): KvModelRow => {
    const [fp32, fp16] = (['fp32', 'fp16'] as const).map(
      (dtype) => rows.find(({ text, kvCacheDtype }) => text === row.text && kvCacheDtype === dtype)!,
    ) as [typeof row, typeof row];
    return {
      ...row,
      perplexityChange: row.perplexity / fp16.perplexity - 1,
      smallerThanFp32: fp32.cacheBytes / row.cacheBytes,
      smallerThanFp16: fp16.cacheBytes / row.cacheBytes,
    };
  });
  return { model: name, window, rows: judged };
}
