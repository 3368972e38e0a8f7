import {
  type DecoderLayer,
  type HostLayer,
  type HostLayerShape,
  type HostLayerStep,
  IntFlashError,
  type Linear,
} from '@int-flash/ops';
import { CpuLinear } from './cpu-linear.js';
import type { NativeAddon } from './native-addon.js';
import { typedError } from './native-error.js';
import type { Placement } from './native-parameters.js';

const STEP_PARAMETERS = 4;

/** A decoder's layer in the addon, made of linear layers that lie there. */
export class CpuLayer implements HostLayer {
  readonly #addon: NativeAddon;
  #handle: object | undefined;
  /** Filled anew by each call, which reads them before it returns. */
  readonly #parameters = new Float64Array(STEP_PARAMETERS);

  private constructor(addon: NativeAddon, handle: object) {
    this.#addon = addon;
    this.#handle = handle;
  }

  /** @returns undefined where a linear layer lies somewhere else, or single heads have norms. */
  static create(
    addon: NativeAddon,
    layer: DecoderLayer,
    shape: HostLayerShape,
    { isa, threads }: Placement,
  ): CpuLayer | undefined {
    const { qkv, attentionOutput, mlpUp, mlpDown, attentionNorm, mlpNorm, queryNorm, keyNorm, windowLeft } = layer;
    if (queryNorm || keyNorm) return undefined;
    const linears: Linear[] = [qkv, attentionOutput, mlpUp, mlpDown];
    const handles = linears.map((linear) => (linear instanceof CpuLinear ? linear.handle : undefined));
    if (handles.includes(undefined)) return undefined;
    const { heads, kvHeads, headDim, half, scale, epsilon } = shape;
    const numbers = Float64Array.of(isa, threads, heads, kvHeads, headDim, half, scale, epsilon, windowLeft);
    try {
      return new CpuLayer(addon, addon.createLayer(numbers, ...handles, attentionNorm.gain, mlpNorm.gain));
    } catch (error) {
      throw typedError(error);
    }
  }

  stepSync({ hidden, tokens, rows, cos, sin, cache, keyShift, largestValueScale }: HostLayerStep): boolean {
    const parameters = this.#parameters;
    parameters[0] = tokens;
    parameters[1] = cache.type === 'int4' ? 1 : 0;
    parameters[2] = cache.capacity;
    parameters[3] = cache.length;
    const { keys, values, keyScales, valueScales, pages } = cache;
    if (!this.#handle)
      throw new IntFlashError('ERR_DISPOSED', 'Expected a decoder layer in use, got one that was disposed');
    try {
      return this.#addon.layerForward(
        this.#handle,
        parameters,
        hidden,
        rows,
        cos,
        sin,
        keys,
        values,
        keyScales,
        valueScales,
        keyShift,
        largestValueScale,
        pages,
      );
    } catch (error) {
      throw typedError(error);
    }
  }

  dispose(): void {
    if (!this.#handle) return;
    this.#addon.disposeLayer(this.#handle);
    this.#handle = undefined;
  }
}
