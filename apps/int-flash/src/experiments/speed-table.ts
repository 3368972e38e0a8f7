import { type BackendChoice, intFlashAttention, selectBackend } from '@int-flash/attention';
import { makeInputs } from '@int-flash/reference';
import type { OnProgress } from '../progress-bar.js';
import { cudaSpeed } from './cuda-speed.js';
import { medianTime } from './median-time.js';

/** The paper's lengths. */
export const SPEED_KEYS = [1024, 2048, 4096, 8192, 16384] as const;

/**
 * The paper's four ways, by its names, and its arithmetic of full-INT8 to the letter. On a CPU `fp16` is this project's float32 path, the
 * fastest float one there is here.
 */
export const SPEED_VARIANTS = ['fp16', 'fp8', 'half-int8', 'full-int8', 'paper-int8'] as const;
export type SpeedVariant = (typeof SPEED_VARIANTS)[number];

export interface SpeedRow {
  readonly keys: number;
  readonly variant: SpeedVariant;
  /** Null where it was not measured … */
  readonly ms: number | null;
  /** … and why. */
  readonly note?: string;
}

export interface SpeedTable {
  readonly device: string;
  /** What stands in the place of `fp16` … */
  readonly baselineType: 'fp16' | 'fp32';
  /** … in words. */
  readonly baseline: string;
  /** What a time covers. */
  readonly timed: string;
  readonly batch: number;
  readonly heads: number;
  readonly headDim: number;
  readonly rows: readonly SpeedRow[];
}

export interface SpeedSettings {
  readonly backend: BackendChoice;
  readonly heads: number;
  readonly headDim: number;
  /** Of all calls together; what would go past it is left out, and said so. */
  readonly budgetMs: number;
  readonly signal: AbortSignal;
}

const CPU_PRECISIONS = {
  fp16: 'fp32',
  'half-int8': 'half-int8',
  'full-int8': 'full-int8',
  'paper-int8': 'paper-int8',
} as const;
const RUNS = 5;
const RUN_MS = 400;

/** Times one attention call of the paper's lengths in each of the ways. */
export async function measureSpeed(settings: SpeedSettings, onProgress: OnProgress): Promise<SpeedTable> {
  const backend = selectBackend(settings.backend);
  return backend.name === 'cuda' ? cudaSpeed(settings, onProgress) : cpuSpeed(settings, onProgress);
}

async function cpuSpeed(
  { backend: choice, heads, headDim, budgetMs, signal }: SpeedSettings,
  onProgress: OnProgress,
): Promise<SpeedTable> {
  const backend = selectBackend(choice);
  const { isa, threads } = backend.status();
  const rows: SpeedRow[] = [];
  const last: Partial<Record<SpeedVariant, { readonly keys: number; readonly ms: number }>> = {};
  const until = performance.now() + budgetMs;
  for (const [step, keys] of SPEED_KEYS.entries()) {
    const inputs = makeInputs('normal', { heads, queries: keys, keys, headDim });
    for (const variant of SPEED_VARIANTS) {
      signal.throwIfAborted();
      if (variant === 'fp8') {
        rows.push({ keys, variant, ms: null, note: 'CPUs have no FP8 arithmetic, and there is no kernel for it' });
        continue;
      }
      const before = last[variant];
      const predicted = before ? before.ms * (keys / before.keys) ** 2 : 0; // twice the keys, four times the work
      if (predicted > 0 && performance.now() + predicted > until) {
        rows.push({ keys, variant, ms: null, note: `left out, about ${Math.ceil(predicted / 1000)} s a call` });
        continue;
      }
      const call = () =>
        intFlashAttention(inputs, { precision: CPU_PRECISIONS[variant], backend: backend.name, signal });
      const { medianMs } = await medianTime(call, RUNS, RUN_MS);
      last[variant] = { keys, ms: medianMs };
      rows.push({ keys, variant, ms: medianMs });
    }
    onProgress(4 ** (step + 1 - SPEED_KEYS.length));
  }
  return {
    device: `${backend.name} backend, ${isa ?? 'unknown instruction set'}, ${threads ?? 1} threads`,
    baselineType: 'fp32',
    baseline: "this project's float32 path: CPUs compute in float32, there is no FP16 kernel",
    timed: 'one call, float32 to float32, quantization included',
    batch: 1,
    heads,
    headDim,
    rows,
  };
}
