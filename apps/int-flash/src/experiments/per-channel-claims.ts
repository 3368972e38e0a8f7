import { dequantizePerChannelInt8, quantizePerChannelInt8 } from '@int-flash/quant';
import { seededNormal, seededUniform } from '@int-flash/reference';
import type { OnProgress } from '../progress-bar.js';
import { allocatedBytes } from './kv-cache-formats.js';

export interface PerChannelRow {
  readonly distribution: 'uniform in [-1, 1]' | 'normal';
  readonly dims: number;
  /** Of the worst element, absolute. */
  readonly maxError: number;
  /** Mean |q·k − q·k̂|, unscaled. */
  readonly scoreError: number;
  /** The same divided by √dims, as attention scales it. */
  readonly scaledScoreError: number;
  /** Bytes of float32 over bytes of codes and scales. */
  readonly smallerThanFp32: number;
}

/** Dimensions that the paper's log has. */
const DIMS = [64, 256, 1024, 4096, 8192] as const;

/**
 * The test of arXiv 2601.04719 as its published code has it: K and one query uniform in [-1, 1], a scale a channel, the mean error of the
 * unscaled products. The same on N(0, 1) shows what of the figures is the method and what the data.
 */
export async function measurePerChannel(
  tokens: number,
  signal: AbortSignal,
  onProgress: OnProgress,
): Promise<PerChannelRow[]> {
  const rows: PerChannelRow[] = [];
  for (const distribution of ['uniform in [-1, 1]', 'normal'] as const) {
    for (const [step, dims] of DIMS.entries()) {
      signal.throwIfAborted();
      await new Promise((resolve) => setImmediate(resolve)); // a turn for Ctrl-C
      rows.push(measure(distribution, dims, tokens));
      onProgress((distribution === 'normal' ? 0.5 : 0) + (step + 1) / DIMS.length / 2);
    }
  }
  return rows;
}

function measure(distribution: PerChannelRow['distribution'], dims: number, tokens: number): PerChannelRow {
  const uniform = seededUniform(dims);
  const draw = distribution === 'normal' ? seededNormal(uniform) : () => 2 * uniform() - 1;
  const keys = Float32Array.from({ length: tokens * dims }, draw);
  const query = Float32Array.from({ length: dims }, draw);
  const quantized = quantizePerChannelInt8(keys, dims);
  const stored = dequantizePerChannelInt8(quantized);
  let maxError = 0;
  let total = 0;
  for (let token = 0; token < tokens; token++) {
    let difference = 0;
    for (let d = 0; d < dims; d++) {
      const error = keys[token * dims + d]! - stored[token * dims + d]!;
      maxError = Math.max(maxError, Math.abs(error));
      difference += query[d]! * error;
    }
    total += Math.abs(difference);
  }
  const scoreError = total / tokens;
  return {
    distribution,
    dims,
    maxError,
    scoreError,
    scaledScoreError: scoreError / Math.sqrt(dims),
    smallerThanFp32: keys.byteLength / allocatedBytes(quantized),
  };
}
