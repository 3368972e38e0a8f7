import type { Backend, Linear, LinearWeights } from '@int-flash/ops';
import { createLinear, type LinearChoice, storedType } from './layers/linear.js';
import type { ModelConfig } from './model-config.js';
import { tensorError } from './tensor-checks.js';
import type { LinearShape, WeightSource } from './weight-source.js';

/** A norm's gain, and the bias that layer norms have. */
export interface NormWeights {
  readonly gain: Float32Array;
  readonly bias: Float32Array | undefined;
}

export interface LayerWeights {
  readonly attentionNorm: NormWeights;
  /** Rows: all query heads, then all key heads, then all value heads. */
  readonly qkv: Linear;
  readonly queryNorm: Float32Array | undefined;
  readonly keyNorm: Float32Array | undefined;
  readonly attentionOutput: Linear;
  readonly mlpNorm: NormWeights;
  /** Gated: rows of the gate, then of the up projection. Plain: the up projection. */
  readonly mlpUp: Linear;
  readonly mlpDown: Linear;
}

/** A model's weights as the backend holds them; norms and the embedding as float32. */
export interface ModelWeights {
  /** [vocabSize, hiddenSize] */
  readonly embedding: Float32Array;
  /** [maxPositions, hiddenSize], for learned positions. */
  readonly positions: Float32Array | undefined;
  readonly layers: readonly LayerWeights[];
  readonly outputNorm: NormWeights;
  /** Always float32: its errors would go straight into the logits. */
  readonly output: Linear;
  dispose(): void;
}

/** Where transformers' checkpoints keep each part. */
interface Names {
  readonly embedding: string;
  readonly positions?: string;
  readonly outputNorm: string;
  readonly layer: (index: number) => string;
  readonly attentionNorm: string;
  readonly mlpNorm: string;
  readonly qkv: readonly string[];
  readonly attentionOutput: string;
  readonly mlpUp: readonly string[];
  readonly mlpDown: string;
}

const GPT2_NAMES: Names = {
  embedding: 'transformer.wte.weight',
  positions: 'transformer.wpe.weight',
  outputNorm: 'transformer.ln_f',
  layer: (index) => `transformer.h.${index}.`,
  attentionNorm: 'ln_1',
  mlpNorm: 'ln_2',
  qkv: ['attn.c_attn'],
  attentionOutput: 'attn.c_proj',
  mlpUp: ['mlp.c_fc'],
  mlpDown: 'mlp.c_proj',
};

const LLAMA_NAMES: Names = {
  embedding: 'model.embed_tokens.weight',
  outputNorm: 'model.norm',
  layer: (index) => `model.layers.${index}.`,
  attentionNorm: 'input_layernorm',
  mlpNorm: 'post_attention_layernorm',
  qkv: ['self_attn.q_proj', 'self_attn.k_proj', 'self_attn.v_proj'],
  attentionOutput: 'self_attn.o_proj',
  mlpUp: ['mlp.gate_proj', 'mlp.up_proj'],
  mlpDown: 'mlp.down_proj',
};

/** As transformers names a layer's tensors, and llama.cpp. */
const LAYER_NAME = /^(?:(?:model\.)?layers|(?:transformer\.)?h|blk)\.(\d+)\./;

/**
 * Reads all weights of a checkpoint and hands them to the backend.
 *
 * If reading fails or is aborted, what the backend already holds is freed.
 * @throws {IntFlashError} as {@link WeightSource.readFloats} and {@link WeightSource.readLinear} do; `ERR_MODEL_FORMAT` for weights of a layer that the config
 *   does not count.
 */
export async function loadWeights(
  checkpoint: WeightSource,
  backend: Backend,
  choice: LinearChoice,
): Promise<ModelWeights> {
  checkLayerCount(checkpoint);
  const made: Linear[] = [];
  const dispose = () => {
    for (const linear of made.splice(0)) linear.dispose();
  };
  try {
    return { ...(await new WeightLoader(checkpoint, backend, choice, made).load()), dispose };
  } catch (error) {
    dispose();
    throw error;
  }
}

/**
 * A model without its last layers would load, and write nonsense.
 *
 * @throws {IntFlashError} `ERR_MODEL_FORMAT`.
 */
export function checkLayerCount(checkpoint: WeightSource): void {
  const { layers } = checkpoint.config;
  for (const { name } of checkpoint.entries()) {
    const layer = Number(LAYER_NAME.exec(name)?.[1] ?? 0);
    if (layer >= layers)
      throw tensorError(name, `Expected weights of ${layers} layers, as the config has it, got layer ${layer} besides`);
  }
}

class WeightLoader {
  readonly #config: ModelConfig;
  readonly #names: Names;

  constructor(
    private readonly checkpoint: WeightSource,
    private readonly backend: Backend,
    private readonly choice: LinearChoice,
    private readonly made: Linear[],
  ) {
    this.#config = checkpoint.config;
    this.#names = checkpoint.config.architecture === 'gpt2' ? GPT2_NAMES : LLAMA_NAMES;
  }

  async load(): Promise<Omit<ModelWeights, 'dispose'>> {
    const { vocabSize, hiddenSize, maxPositions, tiedEmbeddings } = this.#config;
    const names = this.#names;
    const embedding = await this.checkpoint.readFloats(names.embedding, [vocabSize, hiddenSize]);
    const positions = names.positions
      ? await this.checkpoint.readFloats(names.positions, [maxPositions, hiddenSize])
      : undefined;
    const layers: LayerWeights[] = [];
    for (let index = 0; index < this.#config.layers; index++) layers.push(await this.#layer(names.layer(index)));
    const outputNorm = await this.#norm(names.outputNorm);
    const shape = { rows: vocabSize, cols: hiddenSize };
    const output: LinearWeights = tiedEmbeddings
      ? { ...shape, type: 'fp32', weights: embedding }
      : await this.checkpoint.readLinear('lm_head', { ...shape, bias: false });
    return { embedding, positions, layers, outputNorm, output: this.#make([output], 'fp32') };
  }

  async #layer(prefix: string): Promise<LayerWeights> {
    const { hiddenSize, heads, kvHeads, headDim, intermediateSize, mlp, qkvBias, attentionOutputBias, qkNorm } =
      this.#config;
    const names = this.#names;
    const [queries, keys] = [heads * headDim, kvHeads * headDim];
    const qkvRows = names.qkv.length === 1 ? [queries + 2 * keys] : [queries, keys, keys];
    const upNames = mlp.type === 'gated' ? names.mlpUp : names.mlpUp.slice(-1);
    const wide = { rows: intermediateSize, cols: hiddenSize, bias: mlp.bias };
    return {
      attentionNorm: await this.#norm(prefix + names.attentionNorm),
      qkv: await this.#linear(
        names.qkv.map((name) => prefix + name),
        qkvRows.map((rows) => ({ rows, cols: hiddenSize, bias: qkvBias })),
      ),
      queryNorm: qkNorm ? await this.checkpoint.readFloats(`${prefix}self_attn.q_norm.weight`, [headDim]) : undefined,
      keyNorm: qkNorm ? await this.checkpoint.readFloats(`${prefix}self_attn.k_norm.weight`, [headDim]) : undefined,
      attentionOutput: await this.#linear(
        [prefix + names.attentionOutput],
        [{ rows: hiddenSize, cols: queries, bias: attentionOutputBias }],
      ),
      mlpNorm: await this.#norm(prefix + names.mlpNorm),
      mlpUp: await this.#linear(
        upNames.map((name) => prefix + name),
        upNames.map(() => wide),
      ),
      mlpDown: await this.#linear(
        [prefix + names.mlpDown],
        [{ rows: hiddenSize, cols: intermediateSize, bias: mlp.bias }],
      ),
    };
  }

  async #norm(name: string): Promise<NormWeights> {
    const shape = [this.#config.hiddenSize];
    return {
      gain: await this.checkpoint.readFloats(`${name}.weight`, shape),
      bias: this.#config.norm.type === 'layer' ? await this.checkpoint.readFloats(`${name}.bias`, shape) : undefined,
    };
  }

  async #linear(names: readonly string[], shapes: readonly LinearShape[]): Promise<Linear> {
    const parts: LinearWeights[] = [];
    for (const [i, name] of names.entries()) parts.push(await this.checkpoint.readLinear(name, shapes[i]!));
    // Codes that no kernel computes with, or of several kinds: INT8 rows are nearer to how they are stored than float32.
    const isQuantized = names.every((name) => this.checkpoint.isQuantized?.(name));
    const asInt8 = this.choice === 'auto' && isQuantized && storedType(parts) === 'fp32';
    return this.#make(parts, asInt8 ? 'int8' : this.choice);
  }

  #make(parts: readonly LinearWeights[], choice: LinearChoice): Linear {
    const linear = createLinear(this.backend, parts, choice);
    this.made.push(linear);
    return linear;
  }
}
