import type { OnProgress } from '../progress-bar.js';
import type { GenerationTiming, KvCacheDtype, Model } from '../runtime.js';

export interface BenchPlan {
  readonly batches: readonly number[];
  /** Prompt tokens. */
  readonly contexts: readonly number[];
  readonly newTokens: number;
  readonly repeats: number;
}

export interface Spread {
  readonly mean: number;
  /** Sample standard deviation; 0 for a single run. */
  readonly sd: number;
}

/** A line of the result, in llama-bench's words. */
export interface BenchRow {
  readonly model: string;
  readonly bytes: number;
  readonly parameters: number;
  readonly backend: string;
  readonly threads: number;
  readonly attention: string;
  readonly kv: KvCacheDtype;
  readonly batch: number;
  readonly context: number;
  readonly newTokens: number;
  readonly repeats: number;
  /** Prompt tokens a second, of all sequences. */
  readonly pp: Spread;
  /** New tokens a second, of all sequences, after the prompt. */
  readonly tg: Spread;
  /** Until the first new token. */
  readonly ttftMs: Spread;
}

/** Times a loaded model: one run to warm up, then `repeats`, for each batch and context. Each row is told as soon as it is known. */
export async function benchModel(
  model: Model,
  { batches, contexts, newTokens, repeats }: BenchPlan,
  signal: AbortSignal,
  onProgress: OnProgress,
  onRow: (row: BenchRow) => Promise<void>,
): Promise<void> {
  const total = batches.length * contexts.length * (repeats + 1);
  let done = 0;
  for (const context of contexts) {
    for (const batch of batches) {
      const runs: GenerationTiming[] = [];
      for (let run = 0; run <= repeats; run++) {
        const timing = await model.timeGeneration({ batch, promptTokens: context, newTokens: newTokens + 1 }, signal);
        if (run > 0) runs.push(timing);
        onProgress(++done / total);
      }
      const { isa, name, threads } = model.backend;
      await onRow({
        model: model.facts.name,
        bytes: model.facts.bytes,
        parameters: model.facts.parameters,
        backend: isa ? `${name} ${isa}` : name,
        threads: threads ?? 1,
        attention: model.attention,
        kv: model.kvCacheDtype,
        batch,
        context,
        newTokens,
        repeats,
        pp: spread(runs.map(({ promptMs }) => (1000 * batch * context) / promptMs)),
        tg: spread(runs.map(({ tokensPerSecond }) => tokensPerSecond)),
        ttftMs: spread(runs.map(({ firstTokenMs }) => firstTokenMs)),
      });
    }
  }
}

export function spread(values: readonly number[]): Spread {
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
  const squares = values.reduce((sum, value) => sum + (value - mean) ** 2, 0);
  return { mean, sd: values.length > 1 ? Math.sqrt(squares / (values.length - 1)) : 0 };
}
