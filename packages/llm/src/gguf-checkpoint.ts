import type { LinearWeights } from '@int-flash/ops';
import type { CheckpointOptions } from './checkpoint.js';
import { dequantizeGgml, exactInt8Rows, int4Groups, isQuantized } from './ggml-types.js';
import { readGgufArchitecture, readGgufConfig } from './gguf-config.js';
import { GgufFile } from './gguf-file.js';
import type { GgufEntry } from './gguf-header.js';
import { GgufMetadata } from './gguf-metadata.js';
import { quote } from './json-text.js';
import type { ModelConfig } from './model-config.js';
import { expectFinite, expectShape, tensorError } from './tensor-checks.js';
import type { LinearShape, StoredTensor, WeightSource } from './weight-source.js';

/** transformers' names of the parts of a layer, and llama.cpp's. */
const LAYER_PARTS: Readonly<Record<string, string>> = {
  input_layernorm: 'attn_norm',
  'self_attn.q_proj': 'attn_q',
  'self_attn.k_proj': 'attn_k',
  'self_attn.v_proj': 'attn_v',
  'self_attn.o_proj': 'attn_output',
  'self_attn.q_norm': 'attn_q_norm',
  'self_attn.k_norm': 'attn_k_norm',
  post_attention_layernorm: 'ffn_norm',
  'mlp.gate_proj': 'ffn_gate',
  'mlp.up_proj': 'ffn_up',
  'mlp.down_proj': 'ffn_down',
};
const OUTER_PARTS: Readonly<Record<string, string>> = {
  'model.embed_tokens': 'token_embd',
  'model.norm': 'output_norm',
  lm_head: 'output',
};
/** The rotary embedding of llama.cpp's `llama` turns neighbouring channels, so its converter reorders these rows. */
const REORDERED = /\.self_attn\.([qk])_proj\.(weight|bias)$/;

/** The weights in a GGUF file (READABLE_GGML_TYPES), under transformers' names and in its order. */
export class GgufCheckpoint implements WeightSource {
  readonly folder: string;
  readonly config: ModelConfig;
  readonly metadata: GgufMetadata;
  readonly #file: GgufFile;
  readonly #options: CheckpointOptions;
  readonly #reorders: boolean;
  readonly #totalBytes: number;
  #loadedBytes = 0;

  private constructor(
    path: string,
    file: GgufFile,
    metadata: GgufMetadata,
    config: ModelConfig,
    options: CheckpointOptions,
  ) {
    this.folder = path;
    this.config = config;
    this.metadata = metadata;
    this.#file = file;
    this.#options = options;
    this.#reorders = readGgufArchitecture(metadata) === 'llama';
    this.#totalBytes = [...file.header.entries.values()].reduce((sum, { byteLength }) => sum + byteLength, 0);
  }

  /**
   * Opens a GGUF file and judges its header; reads no weights.
   * @throws {IntFlashError} `ERR_MODEL_FORMAT`, `ERR_MODEL_LIMIT`, `ERR_UNSUPPORTED`.
   */
  static async open(path: string, options: CheckpointOptions = {}): Promise<GgufCheckpoint> {
    const file = await GgufFile.open(path, { signal: options.signal });
    try {
      const metadata = new GgufMetadata(file.header.metadata);
      readGgufArchitecture(metadata); // before anything that another architecture would lack
      const divisors = file.entry('rope_freqs.weight');
      const ropeDivisors = divisors && (await file.readFloats(divisors, { signal: options.signal }));
      const config = readGgufConfig(metadata, file.header.entries, ropeDivisors);
      return new GgufCheckpoint(path, file, metadata, config, options);
    } catch (error) {
      await file.close();
      throw error;
    }
  }

  get fileBytes(): number {
    return this.#file.byteLength;
  }

  entries(): StoredTensor[] {
    return [...this.#file.header.entries.values()].map(({ name, type, shape, byteLength }) => ({
      name,
      dtype: type.name,
      shape,
      byteLength,
    }));
  }

  async readFloats(name: string, shape: readonly number[]): Promise<Float32Array> {
    const entry = this.#find(name);
    expectShape(name, entry.shape, shape);
    return this.#floatsInOrder(name, entry, await this.#file.readFloats(entry, this.#reading()));
  }

  /** Q4_0 stays INT4. Q8_0 stays INT8 where its rows have one scale each, which is what this project writes; else it is widened. */
  async readLinear(name: string, { rows, cols, bias }: LinearShape): Promise<LinearWeights> {
    if (!bias && this.#file.entry(ggufName(`${name}.bias`))) {
      throw tensorError(`${name}.bias`, `Expected ${quote(name)} without a bias, got one`);
    }
    const common = { rows, cols, bias: bias ? await this.readFloats(`${name}.bias`, [rows]) : undefined };
    const weight = `${name}.weight`;
    const entry = this.#find(weight);
    expectShape(weight, entry.shape, [rows, cols]);
    if (entry.type.name === 'Q8_0') {
      const bytes = await this.#file.readBytes(entry, this.#reading());
      const exact = exactInt8Rows(bytes, rows, cols);
      if (exact) {
        const codes = this.#inOrder(weight, exact.codes, [rows, cols]);
        return { ...common, type: 'int8', codes, scales: this.#inOrder(weight, exact.scales, [rows]) };
      }
      return { ...common, type: 'fp32', weights: this.#floatsInOrder(weight, entry, dequantizeGgml('Q8_0', bytes)) };
    }
    if (entry.type.name === 'Q4_0') {
      const { packed, scales } = int4Groups(await this.#file.readBytes(entry, this.#reading()));
      expectFinite(weight, scales, entry.name, 'scale');
      const ordered = { packed: this.#inOrder(weight, packed, [rows]), scales: this.#inOrder(weight, scales, [rows]) };
      return { ...common, type: 'int4', group: 32, ...ordered };
    }
    return { ...common, type: 'fp32', weights: await this.readFloats(weight, [rows, cols]) };
  }

  isQuantized(name: string): boolean {
    return isQuantized(this.#find(`${name}.weight`).type);
  }

  close(): Promise<void> {
    return this.#file.close();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  #find(name: string): GgufEntry {
    const stored = ggufName(name);
    const entry = this.#file.entry(stored);
    if (!entry) throw tensorError(name, `Expected ${this.#file.name} to hold ${quote(stored)}, got no such tensor`);
    return entry;
  }

  #reading() {
    return { signal: this.#options.signal, onBytes: (bytes: number) => this.#count(bytes) };
  }

  #count(bytes: number): void {
    this.#loadedBytes += bytes;
    const loadedBytes = Math.min(this.#loadedBytes, this.#totalBytes);
    this.#options.onProgress?.({ loadedBytes, totalBytes: this.#totalBytes });
  }

  #floatsInOrder(name: string, entry: GgufEntry, values: Float32Array): Float32Array {
    expectFinite(name, values, entry.name);
    return this.#inOrder(name, values, entry.shape);
  }

  /** Rows of Q and K back to where transformers has them: of a head, first the even ones, then the odd ones. */
  #inOrder<T extends Float32Array | Int8Array | Uint8Array>(name: string, values: T, shape: readonly number[]): T {
    const [, which] = REORDERED.exec(name) ?? [];
    if (!this.#reorders || !which) return values;
    const { headDim } = this.config;
    const rows = shape[0]!;
    const cols = values.length / rows;
    const out = values.slice() as T;
    for (let row = 0; row < rows; row++) {
      const inHead = row % headDim;
      const half = headDim / 2;
      const from = row - inHead + (inHead < half ? 2 * inHead : 2 * (inHead - half) + 1);
      out.set(values.subarray(from * cols, (from + 1) * cols), row * cols);
    }
    return out;
  }
}

/** transformers' name of a tensor as llama.cpp spells it. */
export function ggufName(name: string): string {
  const [, part, kind] = /^(.*)\.(weight|bias)$/.exec(name) ?? [];
  const [, layer, inner] = /^model\.layers\.(\d+)\.(.+)$/.exec(part ?? '') ?? [];
  const stored = layer === undefined ? OUTER_PARTS[part ?? ''] : LAYER_PARTS[inner!];
  if (stored === undefined) throw tensorError(name, `Expected a part that GGUF has, got ${quote(name)}`);
  return layer === undefined ? `${stored}.${kind}` : `blk.${layer}.${stored}.${kind}`;
}
