import type { Precision } from '@int-flash/ops';
import type { Baseline } from '../src/native-request.js';

interface Ceiling {
  /** Relative L2 over the whole output. */
  readonly relativeL2: number;
  /** Largest difference of one element. */
  readonly element: number;
  /** Largest difference of one log-sum-exp. */
  readonly lse: number;
}

/**
 * How far from float64 an answer may be on N(0, 1) inputs.
 * Relative L2: docs/arithmetic.md's scheme measured 0.0135 (of sorted tiles 0.0150) / 0.0093 / 0.033 / 0.17 on long rows; a single row scatters by a third of that.
 * The element's: a row with few keys, where a score off by 5.5 standard deviations (0.07 for INT8, 18 times that for INT4) meets |v| = 5.
 */
export const CEILINGS: Readonly<Record<Exclude<Precision, 'fp32'>, Ceiling>> = {
  'full-int8': { relativeL2: 0.02, element: 0.4, lse: 0.15 },
  'half-int8': { relativeL2: 0.015, element: 0.35, lse: 0.15 },
  'paper-int8': { relativeL2: 0.06, element: 0.45, lse: 0.15 },
  'int4-qk': { relativeL2: 0.3, element: 4, lse: 2.5 },
};

/**
 * Relative L2 of baselines on N(0, 1) inputs: operands rounded to 11, 8 and 4 bits. Measured in an emulation of these kernels on much
 * harder inputs (rows eight times as large): 0.0007, 0.005 and 0.08.
 */
export const BASELINE_CEILINGS: Readonly<Record<Baseline, number>> = {
  fp16: 1e-3,
  bf16: 1e-2,
  fp8: 0.12,
  'flash-d': 1e-3,
};

/** Of a log-sum-exp, which moves by no more than its largest score does: |q|·|k|·scale of up to 6·√dim, times the rounding of both. */
export const baselineLseCeiling = (baseline: Baseline) => 4 * BASELINE_CEILINGS[baseline];

/** The largest finite float32. */
export const FLT_MAX = 3.4028234663852886e38;
