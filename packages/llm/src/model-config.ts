import { IntFlashError } from '@int-flash/ops';
import { ConfigFields } from './config-fields.js';
import { checkPath } from './file-arguments.js';
import { type JsonObject, MODEL_JSON, requireJsonFile } from './json-file.js';
import type { RotaryShape } from './layers/rotary.js';
import { type QuantizationConfig, readQuantizationConfig } from './quantization-config.js';
import { readRotary } from './rope-config.js';

export const ARCHITECTURES = ['llama', 'mistral', 'qwen2', 'qwen3', 'gpt2'] as const;
export type Architecture = (typeof ARCHITECTURES)[number];

/** `gelu`: exact, x · Φ(x). `gelu-tanh`: GPT-2's approximation of it. */
export type Activation = 'silu' | 'gelu' | 'gelu-tanh';

/** A model's config.json, judged: one decoder with these switches computes all supported architectures. */
export interface ModelConfig {
  readonly architecture: Architecture;
  readonly vocabSize: number;
  readonly hiddenSize: number;
  readonly layers: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly intermediateSize: number;
  /** Longest sequence the model is meant for, in tokens. */
  readonly maxPositions: number;
  readonly norm: { readonly type: 'rms' | 'layer'; readonly epsilon: number };
  /** `learned`: a table of `maxPositions` rows is added to the token embedding. */
  readonly position: ({ readonly type: 'rope' } & RotaryShape) | { readonly type: 'learned' };
  /** `gated`: down(act(gate(x)) · up(x)). `plain`: down(act(up(x))). */
  readonly mlp: { readonly type: 'gated' | 'plain'; readonly activation: Activation; readonly bias: boolean };
  readonly qkvBias: boolean;
  readonly attentionOutputBias: boolean;
  /** RMSNorm over each head of q and k before the rotation (Qwen3). */
  readonly qkNorm: boolean;
  /** By layer: keys a token sees, itself included; `null` = all before it. A window of w is `windowLeft = w - 1`. */
  readonly slidingWindows: readonly (number | null)[];
  /** The output matrix is the token embedding. */
  readonly tiedEmbeddings: boolean;
  /** Linear weights are stored [in, out] (GPT-2's Conv1D), not [out, in]. */
  readonly transposedWeights: boolean;
  readonly bosTokenId: number | undefined;
  /** Any of them ends the text. */
  readonly eosTokenIds: readonly number[];
  /** How the linear weights are stored, when not as floats. */
  readonly quantization: QuantizationConfig | undefined;
}

const MAX_VOCAB = 2 ** 20;
const MAX_WIDTH = 2 ** 17; // hidden and intermediate: Llama 405B has 53,248
const MAX_LAYERS = 1024;
const MAX_HEADS = 1024;
const MAX_POSITIONS = 2 ** 24;
const MAX_HEAD_DIM = 256; // the attention judge's, as is the step
const HEAD_DIM_STEP = 8;

const CLASS_NAMES: Readonly<Record<string, Architecture>> = {
  LlamaForCausalLM: 'llama',
  MistralForCausalLM: 'mistral',
  Qwen2ForCausalLM: 'qwen2',
  Qwen3ForCausalLM: 'qwen3',
  GPT2LMHeadModel: 'gpt2',
};

/** What a config that does not say takes, per architecture; as in transformers' config classes. */
const DEFAULTS: Readonly<
  Record<Exclude<Architecture, 'gpt2'>, { kvHeads?: number; headDim?: number; epsilon: number }>
> = {
  llama: { epsilon: 1e-6 },
  mistral: { kvHeads: 8, epsilon: 1e-6 },
  qwen2: { kvHeads: 32, epsilon: 1e-6 },
  qwen3: { kvHeads: 32, headDim: 128, epsilon: 1e-6 },
};

const ACTIVATIONS: Readonly<Record<string, Activation>> = {
  silu: 'silu',
  swish: 'silu',
  gelu: 'gelu',
  gelu_new: 'gelu-tanh',
  gelu_fast: 'gelu-tanh',
  gelu_pytorch_tanh: 'gelu-tanh',
};

/**
 * Reads `config.json` of a model folder.
 *
 * @throws {IntFlashError} `ERR_MODEL_FORMAT`, `ERR_MODEL_LIMIT` (with `field`), `ERR_UNSUPPORTED` (the message names what is), `ERR_ARG_TYPE`.
 */
export async function readModelConfig(folder: string): Promise<ModelConfig> {
  checkPath(folder, 'the model folder');
  return parseModelConfig(await requireJsonFile(folder, 'config.json', MODEL_JSON));
}

/** Judges the object in a `config.json`. */
export function parseModelConfig(json: JsonObject): ModelConfig {
  const fields = new ConfigFields(json, 'config.json');
  const architecture = readArchitecture(fields);
  return architecture === 'gpt2' ? readGpt2(fields) : readLlamaLike(fields, architecture);
}

function readArchitecture(fields: ConfigFields): Architecture {
  const modelType = fields.text('model_type', '');
  const className = fields.strings('architectures', 16)[0];
  const found =
    className === undefined
      ? ARCHITECTURES.find((name) => name === modelType)
      : Object.hasOwn(CLASS_NAMES, className)
        ? CLASS_NAMES[className]
        : undefined;
  if (found && (modelType === '' || modelType === found)) return found;
  const given = className ?? modelType;
  const got = given === '' ? 'neither architectures nor model_type' : JSON.stringify(given.slice(0, 80));
  throw new IntFlashError(
    'ERR_UNSUPPORTED',
    `Expected a model of type ${ARCHITECTURES.join(', ')} (${Object.keys(CLASS_NAMES).join(', ')}), got ${got}`,
    { field: className === undefined ? 'model_type' : 'architectures' },
  );
}

function readLlamaLike(fields: ConfigFields, architecture: Exclude<Architecture, 'gpt2'>): ModelConfig {
  const defaults = DEFAULTS[architecture];
  const vocabSize = fields.integer('vocab_size', 1, MAX_VOCAB);
  const hiddenSize = fields.integer('hidden_size', 1, MAX_WIDTH);
  const layers = fields.integer('num_hidden_layers', 1, MAX_LAYERS);
  const heads = fields.integer('num_attention_heads', 1, MAX_HEADS);
  const kvHeads = fields.integer('num_key_value_heads', 1, MAX_HEADS, defaults.kvHeads ?? heads);
  if (heads % kvHeads !== 0) throw fields.error('num_key_value_heads', `a divisor of num_attention_heads, ${heads}`);
  const headDim = readHeadDim(fields, defaults.headDim, hiddenSize, heads);
  const maxPositions = fields.integer('max_position_embeddings', 1, MAX_POSITIONS);
  const attentionBias =
    architecture !== 'mistral' && architecture !== 'qwen2' && fields.boolean('attention_bias', false);
  return {
    architecture,
    vocabSize,
    hiddenSize,
    layers,
    heads,
    kvHeads,
    headDim,
    intermediateSize: fields.integer('intermediate_size', 1, MAX_WIDTH),
    maxPositions,
    norm: { type: 'rms', epsilon: fields.number('rms_norm_eps', 0, 1, defaults.epsilon) },
    position: { type: 'rope', ...readRotary(fields, headDim, maxPositions) },
    mlp: {
      type: 'gated',
      activation: readActivation(fields, 'hidden_act', 'silu'),
      bias: architecture === 'llama' && fields.boolean('mlp_bias', false),
    },
    qkvBias: architecture === 'qwen2' || attentionBias,
    attentionOutputBias: attentionBias,
    qkNorm: architecture === 'qwen3',
    slidingWindows: readSlidingWindows(fields, architecture, layers),
    tiedEmbeddings: fields.boolean('tie_word_embeddings', false),
    transposedWeights: false,
    bosTokenId: fields.tokenIds('bos_token_id', vocabSize)[0],
    eosTokenIds: fields.tokenIds('eos_token_id', vocabSize),
    quantization: readQuantizationConfig(fields),
  };
}

function readGpt2(fields: ConfigFields): ModelConfig {
  const vocabSize = fields.integer('vocab_size', 1, MAX_VOCAB);
  const hiddenSize = fields.integer('n_embd', 1, MAX_WIDTH);
  const layers = fields.integer('n_layer', 1, MAX_LAYERS);
  const heads = fields.integer('n_head', 1, MAX_HEADS);
  if (hiddenSize % heads !== 0) throw fields.error('n_head', `a divisor of n_embd, ${hiddenSize}`);
  const headDim = checkHeadDim(fields, 'n_head', hiddenSize / heads);
  for (const [name, needed] of [
    ['scale_attn_weights', true],
    ['scale_attn_by_inverse_layer_idx', false],
    ['add_cross_attention', false],
  ] as const) {
    if (fields.boolean(name, needed) !== needed) throw fields.error(name, String(needed), 'ERR_UNSUPPORTED');
  }
  return {
    architecture: 'gpt2',
    vocabSize,
    hiddenSize,
    layers,
    heads,
    kvHeads: heads,
    headDim,
    intermediateSize: fields.integer('n_inner', 1, MAX_WIDTH, 4 * hiddenSize),
    maxPositions: fields.integer('n_positions', 1, MAX_POSITIONS, 1024),
    norm: { type: 'layer', epsilon: fields.number('layer_norm_epsilon', 0, 1, 1e-5) },
    position: { type: 'learned' },
    mlp: { type: 'plain', activation: readActivation(fields, 'activation_function', 'gelu_new'), bias: true },
    qkvBias: true,
    attentionOutputBias: true,
    qkNorm: false,
    slidingWindows: new Array<null>(layers).fill(null),
    tiedEmbeddings: fields.boolean('tie_word_embeddings', true),
    transposedWeights: true,
    bosTokenId: fields.tokenIds('bos_token_id', vocabSize)[0],
    eosTokenIds: fields.tokenIds('eos_token_id', vocabSize),
    quantization: readQuantizationConfig(fields),
  };
}

function readHeadDim(fields: ConfigFields, fallback: number | undefined, hiddenSize: number, heads: number): number {
  if (!fields.has('head_dim') && fallback === undefined && hiddenSize % heads !== 0) {
    throw fields.error('num_attention_heads', `a divisor of hidden_size, ${hiddenSize}`);
  }
  const headDim = fields.integer('head_dim', 1, MAX_WIDTH, fallback ?? hiddenSize / heads);
  return checkHeadDim(fields, 'head_dim', headDim);
}

function checkHeadDim(fields: ConfigFields, name: string, headDim: number): number {
  if (headDim % HEAD_DIM_STEP !== 0 || headDim > MAX_HEAD_DIM) {
    const expectation = `such that a head has a multiple of ${HEAD_DIM_STEP} channels, up to ${MAX_HEAD_DIM} (it has ${headDim})`;
    throw fields.error(name, expectation, 'ERR_UNSUPPORTED');
  }
  return headDim;
}

function readActivation(fields: ConfigFields, name: string, fallback: string): Activation {
  const activation = Object.hasOwn(ACTIVATIONS, fields.text(name, fallback))
    ? ACTIVATIONS[fields.text(name, fallback)]
    : undefined;
  if (!activation) throw fields.error(name, `one of ${Object.keys(ACTIVATIONS).join(', ')}`, 'ERR_UNSUPPORTED');
  return activation;
}

/** Llama has no window. Mistral's holds for all layers; Qwen's only with `use_sliding_window`, from layer `max_window_layers` on. */
function readSlidingWindows(fields: ConfigFields, architecture: Architecture, layers: number): (number | null)[] {
  const isQwen = architecture === 'qwen2' || architecture === 'qwen3';
  const isOn = architecture === 'mistral' || (isQwen && fields.boolean('use_sliding_window', false));
  const window = isOn && fields.has('sliding_window') ? fields.integer('sliding_window', 1, MAX_POSITIONS) : null;
  const types = isOn ? fields.strings('layer_types', MAX_LAYERS) : [];
  if (types.length > 0) {
    if (types.length !== layers) throw fields.error('layer_types', `one entry a layer, ${layers}`);
    const odd = types.find((type) => type !== 'full_attention' && type !== 'sliding_attention');
    if (odd !== undefined)
      throw fields.error('layer_types', 'full_attention and sliding_attention only', 'ERR_UNSUPPORTED');
    return types.map((type) => (type === 'sliding_attention' ? window : null));
  }
  const firstWindowed = isQwen ? fields.integer('max_window_layers', 0, MAX_LAYERS, 28) : 0;
  return Array.from({ length: layers }, (_, layer) => (layer >= firstWindowed ? window : null));
}
