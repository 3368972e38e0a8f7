import type { LinearWeights } from '@int-flash/ops';
import type { ModelConfig } from './model-config.js';

export interface LinearShape {
  /** Output features. */
  readonly rows: number;
  /** Input features. */
  readonly cols: number;
  readonly bias: boolean;
}

/** What is known of a stored tensor without reading it. */
export interface StoredTensor {
  readonly name: string;
  /** As the file format spells it. */
  readonly dtype: string;
  readonly shape: readonly number[];
  readonly byteLength: number;
}

/** Where a model's weights are read from, whatever the file format; names are transformers'. */
export interface WeightSource {
  /** The folder, or the one file. */
  readonly folder: string;
  readonly config: ModelConfig;
  /** Bytes of the weight files. */
  readonly fileBytes: number;
  /** Every tensor in the order of the files, under its name there. */
  entries(): StoredTensor[];
  /** A float tensor widened to float32, finite. @param shape What the config says it must be. */
  readFloats(name: string, shape: readonly number[]): Promise<Float32Array>;
  /** The linear layer `name`, weights as [rows, cols]. */
  readLinear(name: string, shape: LinearShape): Promise<LinearWeights>;
  /** Whether the linear layer `name` is stored in codes, though `readLinear` may have to widen them. */
  isQuantized?(name: string): boolean;
  /** Twice is a no-op. */
  close(): Promise<void>;
  [Symbol.asyncDispose](): Promise<void>;
}
