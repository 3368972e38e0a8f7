import { checkBoolean, checkChoice, checkInteger, IntFlashError, judgeAttention } from '@int-flash/ops';
import {
  type AttentionInputs,
  INPUT_FAMILIES,
  type InputFamily,
  makeInputs,
  runStepsInSlices,
  softmaxAttentionSteps,
} from '@int-flash/reference';

export interface ProblemShape {
  readonly heads: number;
  /** Absent: as many as heads. */
  readonly kvHeads?: number;
  readonly queries: number;
  readonly keys: number;
  readonly headDim: number;
}

/** Seeded inputs of one attention call. */
export interface ProblemRequest {
  readonly distribution: InputFamily;
  readonly shape: ProblemShape;
  /** The last query sees all keys (bottom-right). */
  readonly causal: boolean;
  /** Multiplies Q·Kᵀ; absent: 1/√headDim. The paper's script has 1. */
  readonly scale?: number;
  readonly seed?: number;
}

export interface Problem {
  readonly inputs: AttentionInputs;
  /** As `judgeAttention` and `intFlashAttention` take them. */
  readonly options: {
    readonly isCausal: boolean;
    readonly causalAlignment: 'bottom-right';
    readonly scale?: number;
  };
  /** Float64 softmax attention. */
  readonly expected: Float64Array;
}

/** Multiplications of one product that the float64 oracle may be asked for: some seconds. */
const MAX_PRODUCTS = 2 ** 33;

/**
 * Draws the inputs and computes what is true of them, in slices so that the process stays responsive.
 * @throws {IntFlashError} `ERR_ARG_RANGE`, `ERR_ARG_TYPE`, `ERR_SHAPE`; `signal.reason` when aborted.
 */
export async function makeProblem(request: ProblemRequest, signal?: AbortSignal): Promise<Problem> {
  const distribution = checkChoice(request.distribution, 'distribution', INPUT_FAMILIES, 'normal');
  const seed = checkInteger(request.seed, 'seed', 1, 0, 2 ** 32 - 1);
  const heads = checkInteger(request.shape.heads, 'shape.heads', 1, 1, 128);
  const shape = {
    heads,
    kvHeads: checkInteger(request.shape.kvHeads, 'shape.kvHeads', heads, 1, heads),
    queries: checkInteger(request.shape.queries, 'shape.queries', 1, 1, 2 ** 17),
    keys: checkInteger(request.shape.keys, 'shape.keys', 1, 1, 2 ** 17),
    headDim: checkInteger(request.shape.headDim, 'shape.headDim', 64, 8, 256),
  };
  if (heads % shape.kvHeads !== 0) {
    throw new IntFlashError(
      'ERR_SHAPE',
      `Expected heads to be a multiple of kvHeads, got ${heads} and ${shape.kvHeads}`,
    );
  }
  const products = heads * shape.queries * shape.keys * shape.headDim;
  if (products > MAX_PRODUCTS) {
    throw new IntFlashError(
      'ERR_ARG_RANGE',
      `Expected heads · queries · keys · headDim to be at most ${MAX_PRODUCTS}, got ${products}`,
      { hint: 'Fewer queries tell as much about the error: rows are alike.' },
    );
  }
  const options = {
    isCausal: checkBoolean(request.causal, 'causal', false),
    causalAlignment: 'bottom-right' as const,
    ...(request.scale !== undefined && { scale: request.scale }),
  };
  const inputs = makeInputs(distribution, shape, seed);
  const { out } = await runStepsInSlices(softmaxAttentionSteps(judgeAttention(inputs, options)), signal);
  return { inputs, options, expected: out };
}
