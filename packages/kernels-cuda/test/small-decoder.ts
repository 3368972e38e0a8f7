import type { Decoder } from '@int-flash/ops';
import { seededNormal, seededUniform } from '@int-flash/reference';
import { createCudaDecoder } from '../src/cuda-decoder.js';
import { CudaLinear } from '../src/cuda-linear.js';
import type { DeviceHandle, NativeAddon } from '../src/native-addon.js';

export interface SmallShape {
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly maxTokens: number;
  /** Keys that each layer's queries see to their left: as many layers as there are numbers, all with the same weights. */
  readonly windows: readonly number[];
}

export const VOCABULARY = 300;
const HIDDEN = 64;
const INTERMEDIATE = 96;

/** A decoder with random weights in float32: activations in INT8 would round most differences away. */
export function smallDecoder(
  addon: NativeAddon,
  device: DeviceHandle,
  shape: SmallShape,
): { readonly decoder: Decoder; dispose(): void } {
  const { heads, kvHeads, headDim, maxTokens, windows } = shape;
  const normal = seededNormal(seededUniform(61));
  const linear = (rows: number, cols: number) => {
    const size = 1 / Math.sqrt(cols);
    const weights = Float32Array.from({ length: rows * cols }, () => size * normal());
    return new CudaLinear(addon, device, { type: 'fp32', rows, cols, weights, bias: undefined });
  };
  const norm = { gain: Float32Array.from({ length: HIDDEN }, () => 1 + 0.1 * normal()), bias: undefined };
  const layer = {
    attentionNorm: norm,
    mlpNorm: norm,
    queryNorm: undefined,
    keyNorm: undefined,
    qkv: linear((heads + 2 * kvHeads) * headDim, HIDDEN),
    attentionOutput: linear(HIDDEN, heads * headDim),
    mlpUp: linear(2 * INTERMEDIATE, HIDDEN),
    mlpDown: linear(HIDDEN, INTERMEDIATE),
  };
  const output = linear(VOCABULARY, HIDDEN);
  const half = headDim / 2;
  const table = (turn: (angle: number) => number) =>
    Float32Array.from({ length: maxTokens * half }, (_, i) =>
      turn(Math.floor(i / half) * 10000 ** (-(i % half) / half)),
    );
  const decoder = createCudaDecoder(addon, device, {
    hiddenSize: HIDDEN,
    heads,
    kvHeads,
    headDim,
    intermediateSize: INTERMEDIATE,
    vocabSize: VOCABULARY,
    maxTokens,
    norm: { type: 'rms', epsilon: 1e-5 },
    activation: 'swiglu',
    scale: 1 / Math.sqrt(headDim),
    embedding: undefined,
    positions: undefined,
    rotary: { half, cos: table(Math.cos), sin: table(Math.sin) },
    layers: windows.map((windowLeft) => ({ ...layer, windowLeft })),
    outputNorm: norm,
    output,
  })!;
  const linears = [layer.qkv, layer.attentionOutput, layer.mlpUp, layer.mlpDown, output];
  const dispose = () => {
    decoder.dispose();
    for (const one of linears) one.dispose();
  };
  return { decoder, dispose };
}

/** Token ids that a sequence begins with, or goes on with from token `from` on. @param which Of several sequences. */
export function someIds(count: number, from = 0, which = 0): Int32Array {
  return Int32Array.from({ length: count }, (_, i) => ((from + i + 1) * 7919 + which * 104_729) % VOCABULARY);
}
