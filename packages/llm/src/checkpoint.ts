import { join } from 'node:path';
import { IntFlashError, type LinearWeights, readArguments, toFloat32, wrongType } from '@int-flash/ops';
import { checkPath, checkReadOptions } from './file-arguments.js';
import { quote } from './json-text.js';
import { type ModelConfig, readModelConfig } from './model-config.js';
import type { SafetensorsEntry, SafetensorsTensor } from './safetensors.js';
import { SafetensorsFile } from './safetensors-file.js';
import { INDEX_FILE, readShardedIndex } from './sharded-index.js';
import { expectFinite, expectShape, tensorError } from './tensor-checks.js';
import { flipSigns } from './weight-layout.js';
import type { LinearShape, WeightSource } from './weight-source.js';

const SINGLE_FILE = 'model.safetensors';
/** Some files name the same tensors with the enclosing module in front and some without it. */
const ROOT_MODULES = ['model.', 'transformer.'];

export interface CheckpointOptions {
  /** Aborts opening and every read; they reject with `signal.reason`. */
  readonly signal?: AbortSignal | undefined;
  /** Called as tensors are read, with the sum of all reads so far and the bytes of all tensors. */
  readonly onProgress?: ((progress: { readonly loadedBytes: number; readonly totalBytes: number }) => void) | undefined;
}

/**
 * The weights of a model folder, single or sharded, float or INT8 (compressed-tensors), read tensor by tensor.
 *
 * Names are as transformers writes them, e.g. `model.layers.0.self_attn.q_proj`.
 */
export class Checkpoint implements WeightSource {
  readonly folder: string;
  readonly config: ModelConfig;
  /** Bytes of all tensors. */
  readonly totalBytes: number;
  readonly #files: readonly SafetensorsFile[];
  readonly #fileOf: ReadonlyMap<string, SafetensorsFile>;
  readonly #options: CheckpointOptions;
  #loadedBytes = 0;

  constructor(folder: string, config: ModelConfig, files: readonly SafetensorsFile[], options: CheckpointOptions) {
    if (!readArguments(() => Array.isArray(files) && files.every((file) => file instanceof SafetensorsFile))) {
      throw wrongType('files to be an array of SafetensorsFile', files);
    }
    this.folder = folder;
    this.config = config;
    this.#files = files;
    this.#options = options;
    const fileOf = new Map<string, SafetensorsFile>();
    for (const file of files) {
      for (const name of file.header.entries.keys()) {
        const other = fileOf.get(name);
        if (other)
          throw tensorError(name, `Expected ${quote(name)} in one file, got it in ${other.name} and ${file.name}`);
        fileOf.set(name, file);
      }
    }
    this.#fileOf = fileOf;
    this.totalBytes = this.entries().reduce((sum, entry) => sum + entry.byteLength, 0);
  }

  /** Every tensor's name, dtype, shape and size, in the order of the files. */
  entries(): SafetensorsEntry[] {
    return this.#files.flatMap((file) => [...file.header.entries.values()]);
  }

  /** Bytes of the weight files. */
  get fileBytes(): number {
    return this.#files.reduce((sum, file) => sum + file.byteLength, 0);
  }

  has(name: string): boolean {
    return this.#find(name) !== undefined;
  }

  /** Reads a tensor as it is stored. */
  async readTensor(name: string): Promise<SafetensorsTensor> {
    const found = this.#find(name);
    if (!found) throw tensorError(name, `Expected the checkpoint to hold ${quote(name)}, got no such tensor`);
    const { signal, onProgress } = this.#options;
    return found.file.read(found.name, {
      signal,
      onBytes: (bytes) => {
        this.#loadedBytes += bytes;
        onProgress?.({ loadedBytes: Math.min(this.#loadedBytes, this.totalBytes), totalBytes: this.totalBytes });
      },
    });
  }

  /**
   * Reads a float tensor (F32, F16, BF16) widened to float32.
   *
   * @param shape What the config says it must be.
   * @throws {IntFlashError} `ERR_MODEL_FORMAT`: absent, of another shape, or with NaN or Infinity; `ERR_UNSUPPORTED`: another dtype.
   */
  async readFloats(name: string, shape: readonly number[]): Promise<Float32Array> {
    const tensor = await this.readTensor(name);
    expectShape(name, tensor.shape, shape);
    const values = widen(name, tensor);
    expectFinite(name, values);
    return values;
  }

  /**
   * Reads the linear layer `name`: `.weight`, with `.weight_scale` if it is INT8, or `.weight_packed` and its scales if INT4, and `.bias`. Weights come as [rows, cols] whatever
   * the file's order. An INT8 code of -128, which other quantizers may write, becomes -127.
   *
   * @throws {IntFlashError} `ERR_MODEL_FORMAT`, `ERR_UNSUPPORTED`; also if the file has a bias that the config rules out.
   */
  async readLinear(name: string, shape: LinearShape): Promise<LinearWeights> {
    const { rows, cols } = shape;
    if (!shape.bias && this.has(`${name}.bias`)) {
      throw tensorError(`${name}.bias`, `Expected ${quote(name)} without a bias, as config.json has it, got one`);
    }
    const bias = shape.bias ? await this.readFloats(`${name}.bias`, [rows]) : undefined;
    const weightName = `${name}.weight`;
    if (this.has(`${weightName}_packed`)) return this.#readInt4(weightName, rows, cols, bias);
    if (this.#entry(weightName)?.dtype === 'I8') {
      const codes = await this.#readCodes(weightName, [rows, cols]);
      return { type: 'int8', rows, cols, bias, codes, scales: await this.#readScales(`${name}.weight_scale`, rows) };
    }
    if (!this.config.transposedWeights || name === 'lm_head') {
      return { type: 'fp32', rows, cols, bias, weights: await this.readFloats(weightName, [rows, cols]) };
    }
    const weights = transpose(await this.readFloats(weightName, [cols, rows]), cols, rows);
    return { type: 'fp32', rows, cols, bias, weights };
  }

  /** Closes the files; twice is a no-op. */
  async close(): Promise<void> {
    await Promise.all(this.#files.map((file) => file.close()));
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  async #readInt4(name: string, rows: number, cols: number, bias: Float32Array | undefined): Promise<LinearWeights> {
    const { quantization } = this.config;
    if (quantization?.format !== 'pack-quantized') {
      throw tensorError(
        `${name}_packed`,
        `Expected weights as config.json has them, ${quantization?.format ?? 'floats'}, got packed INT4 for ${quote(name)}`,
      );
    }
    const { group } = quantization;
    const tensor = await this.readTensor(`${name}_packed`);
    if (cols % group !== 0 || tensor.dtype !== 'I32') {
      throw tensorError(
        `${name}_packed`,
        `Expected I32 codes in groups of ${group} for ${quote(name)}, got ${tensor.dtype} for ${cols} columns`,
      );
    }
    expectShape(`${name}_packed`, tensor.shape, [rows, cols / 8]);
    const { buffer, byteOffset, byteLength } = flipSigns(tensor.data as Int32Array);
    const scales = await this.readFloats(`${name}_scale`, [rows, cols / group]);
    expectPositive(`${name}_scale`, scales);
    return { type: 'int4', rows, cols, bias, packed: new Uint8Array(buffer, byteOffset, byteLength), scales, group };
  }

  async #readCodes(name: string, shape: readonly number[]): Promise<Int8Array> {
    if (!this.config.quantization) {
      throw tensorError(
        name,
        `Expected float weights without a quantization_config in config.json, got I8 for ${quote(name)}`,
      );
    }
    const tensor = await this.readTensor(name);
    expectShape(name, tensor.shape, shape);
    const codes = tensor.data as Int8Array;
    for (let i = 0; i < codes.length; i++) if (codes[i] === -128) codes[i] = -127;
    return codes;
  }

  async #readScales(name: string, rows: number): Promise<Float32Array> {
    const entry = this.#entry(name);
    const scales = await this.readFloats(name, entry?.shape.length === 1 ? [rows] : [rows, 1]);
    expectPositive(name, scales);
    return scales;
  }

  #entry(name: string): SafetensorsEntry | undefined {
    const found = this.#find(name);
    return found?.file.entry(found.name);
  }

  #find(name: string): { file: SafetensorsFile; name: string } | undefined {
    if (typeof name !== 'string') throw wrongType('the name of a tensor', name);
    const root = ROOT_MODULES.find((module) => name.startsWith(module));
    const names = root ? [name, name.slice(root.length)] : [name];
    for (const candidate of names) {
      const file = this.#fileOf.get(candidate);
      if (file) return { file, name: candidate };
    }
    return undefined;
  }
}

/**
 * Opens a model folder in Hugging Face format: `config.json` and `model.safetensors`, or its shards and their index.
 *
 * Reads and judges the headers, no weights. Close it, or declare it with `await using`.
 * @throws {IntFlashError} `ERR_MODEL_FORMAT`, `ERR_MODEL_LIMIT`, `ERR_UNSUPPORTED`, `ERR_ARG_*`.
 */
export async function openCheckpoint(folder: string, options: CheckpointOptions = {}): Promise<Checkpoint> {
  checkPath(folder, 'the model folder');
  const given: CheckpointOptions = checkReadOptions(options, 'onProgress');
  given.signal?.throwIfAborted();
  const config = await readModelConfig(folder);
  const index = await readShardedIndex(folder);
  const files: SafetensorsFile[] = [];
  try {
    for (const name of index?.shards ?? [SINGLE_FILE]) {
      files.push(await SafetensorsFile.open(join(folder, name), { signal: given.signal }));
    }
    if (index) checkIndex(index.weightMap, files);
    return new Checkpoint(folder, config, files, given);
  } catch (error) {
    await Promise.all(files.map((file) => file.close()));
    throw error;
  }
}

/** The index and the shards' own headers must tell the same story, or two readers could load different weights. */
function checkIndex(weightMap: ReadonlyMap<string, string>, files: readonly SafetensorsFile[]): void {
  let found = 0;
  for (const file of files) {
    for (const name of file.header.entries.keys()) {
      const shard = weightMap.get(name);
      if (shard !== file.name) {
        throw tensorError(
          name,
          `Expected ${INDEX_FILE} to place ${quote(name)} in ${file.name}, got ${shard ?? 'no entry'}`,
        );
      }
      found++;
    }
  }
  if (found === weightMap.size) return;
  const missing = [...weightMap].find(
    ([name, shard]) => !files.some((f) => f.name === shard && f.header.entries.has(name)),
  );
  throw tensorError(
    missing![0],
    `Expected ${missing![1]} to hold ${quote(missing![0])}, as ${INDEX_FILE} has it, got no such tensor`,
  );
}

function widen(name: string, { dtype, data }: SafetensorsTensor): Float32Array {
  switch (dtype) {
    case 'F32':
      return data as Float32Array;
    case 'F16':
      return toFloat32(data as Uint16Array, 'float16');
    case 'BF16':
      return toFloat32(data as Uint16Array, 'bfloat16');
    default:
      throw new IntFlashError('ERR_UNSUPPORTED', `Expected ${quote(name)} as F32, F16 or BF16, got ${dtype}`, {
        field: `tensors.${name}.dtype`,
      });
  }
}

function expectPositive(name: string, scales: Float32Array): void {
  const bad = scales.findIndex((scale) => !(scale > 0));
  if (bad >= 0) throw tensorError(name, `Expected scales > 0 in ${quote(name)}, got ${scales[bad]} at element ${bad}`);
}

/** [rows, cols] → [cols, rows]. */
function transpose(source: Float32Array, rows: number, cols: number): Float32Array {
  const out = new Float32Array(source.length);
  for (let row = 0; row < rows; row++) {
    for (let col = 0; col < cols; col++) out[col * rows + row] = source[row * cols + col]!;
  }
  return out;
}
