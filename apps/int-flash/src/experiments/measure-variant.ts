import { type BackendChoice, intFlashAttention, selectBackend } from '@int-flash/attention';
import { checkChoice, judgeAttention, PRECISIONS, type Precision } from '@int-flash/ops';
import {
  cosine,
  flashDAttentionSteps,
  fp8AttentionSteps,
  meanRelativeError,
  paperMre,
  type ReferenceResult,
  relativeL2,
  rowErrorQuantile,
  runStepsInSlices,
  type Steps,
  worstElement,
} from '@int-flash/reference';
import { medianTime } from './median-time.js';
import { makeProblem, type Problem, type ProblemRequest } from './problem.js';

/** Emulated in TypeScript, because no backend here computes them: their error is theirs, a time would be TypeScript's. */
const EMULATIONS = {
  'fp8-e4m3': (plan) => fp8AttentionSteps(plan, 'e4m3'),
  'fp8-e5m2': (plan) => fp8AttentionSteps(plan, 'e5m2'),
  'fp8-e5m2-stored': (plan) => fp8AttentionSteps(plan, 'e5m2', { output: 'e5m2' }),
  'flash-d': (plan) => flashDAttentionSteps(plan, 'float32'),
} as const satisfies Record<string, (plan: ReturnType<typeof judgeAttention>) => Steps<ReferenceResult>>;

type Emulation = keyof typeof EMULATIONS;

/**
 * What can be compared: the backends' precisions, and emulations.
 * - `paper-half-int8`: `half-int8` without smooth-K, as the paper has it.
 * - `fp8-e4m3`: FlashAttention-3's scheme, a scale a head. `fp8-e5m2`: plain casts, as the paper's script has them; `fp8-e5m2-stored`
 *   also stores the output in e5m2, which that script does too.
 * - `flash-d`: the softmax division hidden in a sigmoid, every operation in float32.
 */
export const VARIANTS = [...PRECISIONS, 'paper-half-int8', ...(Object.keys(EMULATIONS) as Emulation[])] as const;
type BackendVariant = Precision | 'paper-half-int8';
export type Variant = BackendVariant | Emulation;

/** The paper's half-INT8 leaves the keys' mean where it is. */
const PAPER_HALF = { precision: 'half-int8', smoothK: false } as const;

export interface MeasureRequest extends ProblemRequest {
  readonly variant: Variant;
  readonly backend?: BackendChoice;
  readonly signal?: AbortSignal;
}

/** Errors are against float64 softmax attention of the same inputs. */
export interface VariantMeasurement {
  readonly relativeL2: number;
  readonly cosine: number;
  /** 99th percentile of the rows' relative L2. */
  readonly rowP99: number;
  /** Of the worst element, absolute. */
  readonly maxError: number;
  /** Mean relative error over all elements, as the paper defines it. */
  readonly mre: number;
  /** The same over the last four values, which is what the paper's script computes. */
  readonly mreLastFour: number;
  /** Of one call from float32 to float32, quantization included: the median of several. Null for emulations. */
  readonly ms: number | null;
  /** The backend that computed it, or `emulated`. */
  readonly computedBy: string;
}

/** A problem is measured with several variants in a row, and its truth costs more than they do: the last one is kept. */
let latest: { readonly key: string; readonly problem: Problem } | undefined;

/**
 * Runs one variant of attention on seeded inputs and says how far off it is and how long it took.
 * @throws {IntFlashError} `ERR_ARG_RANGE`, `ERR_ARG_TYPE`, `ERR_SHAPE`, `ERR_UNSUPPORTED`; `signal.reason` when aborted.
 */
export async function measureVariant(request: MeasureRequest): Promise<VariantMeasurement> {
  const { variant, backend, signal, distribution, shape, causal, scale, seed } = request;
  checkChoice(variant, 'variant', VARIANTS, 'full-int8');
  const key = JSON.stringify([distribution, shape, causal, scale, seed]);
  if (latest?.key !== key) {
    const problem = await makeProblem(request, signal);
    latest = { key, problem };
  }
  return measureOn(latest.problem, variant, backend, signal);
}

/** {@link measureVariant} on a problem at hand. */
export async function measureOn(
  problem: Problem,
  variant: Variant,
  backend?: BackendChoice,
  signal?: AbortSignal,
): Promise<VariantMeasurement> {
  const { expected } = problem;
  const { out, ms, computedBy } = isEmulation(variant)
    ? await emulate(problem, variant, signal)
    : await runBackend(problem, variant, backend, signal);
  return {
    relativeL2: relativeL2(out, expected),
    cosine: cosine(out, expected),
    rowP99: rowErrorQuantile(out, expected, problem.inputs.value.dims.at(-1)!),
    maxError: worstElement(out, expected, [expected.length]).error,
    mre: meanRelativeError(out, expected),
    mreLastFour: paperMre(out, expected),
    ms,
    computedBy,
  };
}

function isEmulation(variant: Variant): variant is Emulation {
  return Object.hasOwn(EMULATIONS, variant);
}

async function emulate({ inputs, options }: Problem, variant: Emulation, signal: AbortSignal | undefined) {
  const { out } = await runStepsInSlices(EMULATIONS[variant](judgeAttention(inputs, options)), signal);
  return { out, ms: null, computedBy: 'emulated' };
}

const TIMED_RUNS = 5;
const TIMED_MS = 250;

async function runBackend(
  { inputs, options }: Problem,
  variant: BackendVariant,
  choice: BackendChoice | undefined,
  signal: AbortSignal | undefined,
) {
  const backend = selectBackend(choice);
  const arithmetic = variant === 'paper-half-int8' ? PAPER_HALF : { precision: variant };
  const call = () =>
    intFlashAttention(inputs, { ...options, ...arithmetic, backend: backend.name, ...(signal && { signal }) });
  const { result, medianMs } = await medianTime(call, TIMED_RUNS, TIMED_MS);
  return { out: result.out.data, ms: medianMs, computedBy: backend.name };
}
