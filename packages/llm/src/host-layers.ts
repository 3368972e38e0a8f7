import type { Backend, HostLayer, HostLayerStep } from '@int-flash/ops';
import { FEW_TOKENS } from './call-budget.js';
import type { KvCache } from './kv-cache.js';
import type { KeyValueRows } from './kv-cache-layer.js';
import type { Rotary } from './layers/rotary.js';
import type { ModelConfig } from './model-config.js';
import type { LayerWeights, ModelWeights } from './model-weights.js';
import type { PlacedPart } from './placed-part.js';

/** Of a layer, at most: with more, one call would hold the event loop, and what is between its steps counts for nothing. */
const MOST_WEIGHTS = 2 ** 24;

/**
 * Layers that a backend computes in one call each: a few tokens of one sequence, with INT8 attention on codes. One call for each step of a layer leaves a
 * small model as much to do between them as in them. The bits are the same.
 */
export class HostLayers {
  readonly #config: ModelConfig;
  readonly #rotary: Rotary;
  readonly #layers: readonly HostLayer[];

  private constructor(config: ModelConfig, rotary: Rotary, layers: readonly HostLayer[]) {
    this.#config = config;
    this.#rotary = rotary;
    this.#layers = layers;
  }

  /** @returns undefined for a backend or a model that has no such layers. */
  static create(
    config: ModelConfig,
    weights: ModelWeights,
    backend: Backend,
    rotary: Rotary | undefined,
  ): HostLayers | undefined {
    const { heads, kvHeads, headDim, norm, mlp, slidingWindows } = config;
    if (!backend.createHostLayer || !rotary || norm.type !== 'rms' || mlp.type !== 'gated') return undefined;
    if (weights.layers.some((layer) => weightsOf(layer) > MOST_WEIGHTS)) return undefined;
    const scale = 1 / Math.sqrt(headDim);
    const shape = { heads, kvHeads, headDim, scale, epsilon: norm.epsilon, half: rotary.tables(0).half };
    const made = weights.layers.map((layer, index) =>
      backend.createHostLayer!({ ...layer, windowLeft: (slidingWindows[index] ?? Infinity) - 1 }, shape),
    );
    const layers = made.filter((layer) => layer !== undefined);
    if (layers.length === made.length) return new HostLayers(config, rotary, layers);
    for (const layer of layers) layer.dispose();
    return undefined;
  }

  /** Whether a step over these parts is one that the layers compute. */
  static suits(parts: readonly PlacedPart[]): boolean {
    const { ids, attention, cache } = parts[0]!;
    return parts.length === 1 && ids.length <= FEW_TOKENS && attention === 'int8' && cache.isCoded;
  }

  /** A step over such a part. */
  begin({ ids, start, cache }: PlacedPart, hidden: Float32Array, qkv: Float32Array): HostLayerRun {
    const tokens = ids.length;
    const { cos, sin } = this.#rotary.atLeast(start + tokens);
    const { heads, kvHeads, headDim } = this.#config;
    const keyOffset = heads * headDim;
    const valueOffset = keyOffset + kvHeads * headDim;
    const rows = { data: qkv, tokens, keyOffset, valueOffset, stride: valueOffset + kvHeads * headDim };
    return new HostLayerRun(this.#layers, cache, rows, { hidden, tokens, rows: qkv, cos, sin });
  }

  dispose(): void {
    for (const layer of this.#layers) layer.dispose();
  }
}

function weightsOf({ qkv, attentionOutput, mlpUp, mlpDown }: LayerWeights): number {
  return [qkv, attentionOutput, mlpUp, mlpDown].reduce((sum, { rows, cols }) => sum + rows * cols, 0);
}

type StepArrays = Omit<HostLayerStep, 'cache' | 'keyShift' | 'largestValueScale'>;

/** A step on its way through the layers. */
export class HostLayerRun {
  readonly #layers: readonly HostLayer[];
  readonly #cache: KvCache;
  readonly #rows: KeyValueRows;
  readonly #arrays: StepArrays;

  constructor(layers: readonly HostLayer[], cache: KvCache, rows: KeyValueRows, arrays: StepArrays) {
    this.#layers = layers;
    this.#cache = cache;
    this.#rows = rows;
    this.#arrays = arrays;
  }

  /**
   * @returns false, with nothing done, where the cache's rows have to be written step by step.
   * @throws as the steps one after the other.
   */
  step(index: number): boolean {
    const { hidden, tokens, rows, cos, sin } = this.#arrays;
    return this.#cache.appendBy(index, this.#rows, (cache, keyShift, largestValueScale) =>
      this.#layers[index]!.stepSync({ hidden, tokens, rows, cos, sin, cache, keyShift, largestValueScale }),
    );
  }
}
