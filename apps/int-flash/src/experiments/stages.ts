import type { OnProgress } from '../progress-bar.js';

/** A part of a long job: told the job's progress as a fraction of its own. */
export interface Stage<T> {
  /** About the seconds it takes; only the ratio to the others matters. */
  readonly weight: number;
  run(onProgress: OnProgress): Promise<T>;
}

/** Runs stages one after the other under one progress. */
export async function runStages<T extends readonly Stage<unknown>[]>(
  stages: T,
  onProgress: OnProgress,
): Promise<{ -readonly [I in keyof T]: T[I] extends Stage<infer R> ? R : never }> {
  const total = stages.reduce((sum, { weight }) => sum + weight, 0);
  const results: unknown[] = [];
  let done = 0;
  for (const { weight, run } of stages) {
    results.push(await run((fraction) => onProgress((done + weight * fraction) / total)));
    done += weight;
    onProgress(done / total);
  }
  return results as never;
}
