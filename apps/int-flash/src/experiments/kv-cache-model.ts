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
  /** Against fp32 attention and cache on the same text: 0.01 = 1% worse. */
  readonly perplexityChange: number;
  /** Of the cache that read the first window, as allocated … */
  readonly cacheBytes: number;
  /** … and how much smaller than the fp32 one. */
  readonly smallerThanFp32: number;
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
  { attention: 'int8', kvCacheDtype: 'int8' },
  { attention: 'int8', kvCacheDtype: 'int4' },
] as const;

/** How well a model reads its held-out texts with each way of keeping keys and values, and what the cache takes. */
export async function measureKvModel(
  runtime: Runtime,
  { folder, backend, characters, signal }: KvModelSettings,
  onProgress: OnProgress,
): Promise<KvModelTable> {
  const rows: KvModelRow[] = [];
  const baseline = new Map<string, { perplexity: number; cacheBytes: number }>();
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
        if (way === 0) baseline.set(text, { perplexity: result.perplexity, cacheBytes });
        const fp32 = baseline.get(text)!;
        rows.push({
          text,
          attention,
          kvCacheDtype,
          tokens: result.tokens,
          perplexity: result.perplexity,
          perplexityChange: result.perplexity / fp32.perplexity - 1,
          cacheBytes,
          smallerThanFp32: fp32.cacheBytes / cacheBytes,
        });
      }
    } finally {
      await model.dispose();
    }
  }
  return { model: name, window, rows };
}
