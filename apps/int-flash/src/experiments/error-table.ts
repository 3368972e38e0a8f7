import type { BackendChoice } from '@int-flash/attention';
import type { InputFamily } from '@int-flash/reference';
import type { OnProgress } from '../progress-bar.js';
import { measureOn, type Variant, type VariantMeasurement } from './measure-variant.js';
import { makeProblem } from './problem.js';

/** Errors of one variant on one distribution: means over the seeds. */
export interface ErrorRow {
  readonly distribution: InputFamily;
  readonly keys: number;
  readonly variant: Variant;
  readonly relativeL2: number;
  readonly cosine: number;
  readonly rowP99: number;
  readonly maxError: number;
  /** Over all elements. */
  readonly mre: number;
  /** Over the last four values, as the paper's script has it: the least and the largest of the seeds. */
  readonly mreLastFour: readonly [number, number];
}

export interface ErrorTable {
  readonly heads: number;
  readonly queries: number;
  readonly headDim: number;
  /** Multiplies Q·Kᵀ. */
  readonly scale: number;
  readonly seeds: number;
  readonly rows: readonly ErrorRow[];
}

export interface ErrorSettings {
  readonly backend: BackendChoice;
  readonly distributions: readonly InputFamily[];
  readonly variants: readonly Variant[];
  readonly keys: readonly number[];
  readonly heads: number;
  /** Rows that are measured; each sees all keys. */
  readonly queries: number;
  readonly headDim: number;
  readonly scale: number;
  readonly seeds: number;
  readonly signal: AbortSignal;
}

/** Measures each variant on each distribution and length against float64 softmax attention. */
export async function measureErrors(settings: ErrorSettings, onProgress: OnProgress): Promise<ErrorTable> {
  const { distributions, variants, heads, queries, headDim, scale, seeds, backend, signal } = settings;
  const rows: ErrorRow[] = [];
  const total = settings.keys.reduce((sum, keys) => sum + keys, 0) * distributions.length * seeds;
  let done = 0;
  for (const distribution of distributions) {
    for (const keys of settings.keys) {
      const measured = new Map<Variant, VariantMeasurement[]>(variants.map((variant) => [variant, []]));
      for (let seed = 1; seed <= seeds; seed++) {
        const shape = { heads, queries, keys, headDim };
        const problem = await makeProblem({ distribution, shape, causal: false, scale, seed }, signal);
        for (const variant of variants) {
          measured.get(variant)!.push(await measureOn(problem, variant, backend, signal));
        }
        done += keys;
        onProgress(done / total);
      }
      for (const [variant, runs] of measured) rows.push({ distribution, keys, variant, ...average(runs) });
    }
  }
  return { heads, queries, headDim, scale, seeds, rows };
}

function average(runs: readonly VariantMeasurement[]) {
  const mean = (of: (run: VariantMeasurement) => number) => runs.reduce((sum, run) => sum + of(run), 0) / runs.length;
  const lastFour = runs.map((run) => run.mreLastFour);
  return {
    relativeL2: mean((run) => run.relativeL2),
    cosine: mean((run) => run.cosine),
    rowP99: mean((run) => run.rowP99),
    maxError: Math.max(...runs.map((run) => run.maxError)),
    mre: mean((run) => run.mre),
    mreLastFour: [Math.min(...lastFour), Math.max(...lastFour)] as const,
  };
}
