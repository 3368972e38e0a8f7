import { chmod, mkdir, mkdtemp, open, readdir, readFile, rename, rm, rmdir, stat, writeFile } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import { checkBoolean, checkOptions, checkSignal, describe, fromFloat32, IntFlashError } from '@int-flash/ops';
import { quantizePerTokenInt8 } from '@int-flash/quant';
import { type Checkpoint, openCheckpoint } from './checkpoint.js';
import { MODEL_JSON, requireJsonFile } from './json-file.js';
import { writeQuantizationConfig } from './quantization-config.js';
import type { SafetensorsEntry } from './safetensors.js';
import { planSafetensors, type TensorOutline, writeSafetensorsFile } from './safetensors-writer.js';

export interface QuantizeOptions {
  readonly signal?: AbortSignal;
  /** Bytes of the input read so far, and all of them. */
  readonly onProgress?: (progress: { readonly loadedBytes: number; readonly totalBytes: number }) => void;
  /** Replace `outFolder` if it holds files; default false. */
  readonly overwrite?: boolean;
}

export interface QuantizeSummary {
  /** Tensors of the input. */
  readonly tensors: number;
  /** How many of them became INT8. */
  readonly quantized: number;
  /** Of the weight files. */
  readonly bytesIn: number;
  readonly bytesOut: number;
}

/** Copied as they are, when there: what a model is used with and what its licence asks to keep with it. */
const COMPANIONS =
  /^(tokenizer\.json|tokenizer_config\.json|special_tokens_map\.json|generation_config\.json|chat_template\.(jinja|json)|vocab\.json|merges\.txt|(model_card|readme|licen[cs]e|notice|attribution|use_policy)[\w.-]*)$/i;
const MAX_COMPANION_BYTES = 2 ** 26;
const WEIGHTS_FILE = 'model.safetensors';
const LAYER_LINEAR = /\.layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)\.weight$/;
const OUTPUT = 'lm_head';

/**
 * Writes a float model again with INT8 linear weights, in the layout that transformers and vLLM read (compressed-tensors,
 * "int-quantized"): per row `codes` I8 and `scale` F32, the latter [rows, 1]. Every other tensor becomes BF16.
 *
 * The output appears as a whole or not at all: it is written beside `outFolder` and renamed.
 * @throws {IntFlashError} `ERR_ARG_RANGE` (`outFolder` is not empty, or is `inFolder`), `ERR_UNSUPPORTED` (GPT-2, whose Conv1D layers the
 *   layout does not cover; a model that is quantized already), and what `openCheckpoint` throws. Rejects with `signal.reason`.
 */
export async function quantizeCheckpoint(
  inFolder: string,
  outFolder: string,
  options?: QuantizeOptions,
): Promise<QuantizeSummary> {
  const given = checkOptions(options, ['signal', 'onProgress', 'overwrite'], 'options');
  const signal = checkSignal(given.signal);
  const overwrite = checkBoolean(given.overwrite, 'overwrite', false);
  if (typeof outFolder !== 'string' || outFolder === '') {
    throw new IntFlashError('ERR_ARG_TYPE', `Expected the output folder to be a path, got ${describe(outFolder)}`);
  }
  const checkpoint = await openCheckpoint(inFolder, { signal, onProgress: options?.onProgress });
  try {
    checkConvertible(checkpoint);
    const target = resolve(outFolder);
    if (target === resolve(inFolder))
      throw new IntFlashError('ERR_ARG_RANGE', 'Expected another output folder than the input folder');
    const isFull = await holdsFiles(target);
    if (isFull && !overwrite) {
      throw new IntFlashError(
        'ERR_ARG_RANGE',
        'Expected an output folder that is absent or empty, got one that holds files',
        {
          hint: 'Name another folder, or say that it may be overwritten.',
        },
      );
    }
    await mkdir(dirname(target), { recursive: true });
    const temporary = await mkdtemp(join(dirname(target), `.${basename(target)}-`));
    try {
      const summary = await writeFolder(checkpoint, temporary);
      await chmod(temporary, 0o777 & ~process.umask()); // mkdtemp lets only its user in
      signal?.throwIfAborted();
      await replaceFolder(temporary, target, isFull);
      return summary;
    } catch (error) {
      await rm(temporary, { recursive: true, force: true });
      throw error;
    }
  } finally {
    await checkpoint.close();
  }
}

async function writeFolder(checkpoint: Checkpoint, folder: string): Promise<QuantizeSummary> {
  const entries = checkpoint.entries().filter((entry) => !isTiedOutput(checkpoint, entry));
  const isLinear = (entry: SafetensorsEntry) => entry.shape.length === 2 && LAYER_LINEAR.test(entry.name);
  const plan = planSafetensors(
    entries.flatMap((entry) => (isLinear(entry) ? quantizedOutline(entry) : floatOutline(entry))),
    {
      format: 'pt', // transformers refuses a file that does not name its framework
    },
  );
  const byName = new Map(entries.map((entry) => [entry.name, entry]));
  const file = await open(join(folder, WEIGHTS_FILE), 'wx');
  try {
    // Scales (F32) come first in the file, so each linear weight is read twice: once for its scales, once for its codes.
    await writeSafetensorsFile(file, plan, async (name) => {
      const scaled = name.endsWith('_scale') ? byName.get(name.slice(0, -'_scale'.length)) : undefined;
      const entry = scaled ?? byName.get(name)!;
      const values = await checkpoint.readFloats(entry.name, entry.shape);
      if (!isLinear(entry)) return { dtype: 'BF16', shape: entry.shape, data: fromFloat32(values, 'bfloat16') };
      const [rows, cols] = entry.shape as [number, number];
      const quantized = quantizePerTokenInt8(values, cols);
      return scaled
        ? { dtype: 'F32', shape: [rows, 1], data: quantized.scales }
        : { dtype: 'I8', shape: [rows, cols], data: quantized.values };
    });
    await file.sync();
  } finally {
    await file.close();
  }
  await writeConfig(checkpoint.folder, folder);
  await copyCompanions(checkpoint.folder, folder);
  return {
    tensors: entries.length,
    quantized: entries.filter(isLinear).length,
    bytesIn: checkpoint.fileBytes,
    bytesOut: plan.byteLength,
  };
}

function checkConvertible({ config }: Checkpoint): void {
  if (config.architecture === 'gpt2') {
    throw new IntFlashError(
      'ERR_UNSUPPORTED',
      'Expected a model with Linear layers, got gpt2, whose Conv1D layers the INT8 layout has no place for',
    );
  }
  if (config.quantization) {
    throw new IntFlashError(
      'ERR_UNSUPPORTED',
      `Expected float weights, got a model that is ${config.quantization.format} already`,
    );
  }
}

/** Some writers store the tied output matrix a second time. */
function isTiedOutput({ config }: Checkpoint, { name }: SafetensorsEntry): boolean {
  return config.tiedEmbeddings && name === `${OUTPUT}.weight`;
}

function quantizedOutline({ name, shape }: SafetensorsEntry): TensorOutline[] {
  return [
    { name, dtype: 'I8', shape },
    { name: `${name}_scale`, dtype: 'F32', shape: [shape[0]!, 1] },
  ];
}

function floatOutline({ name, shape }: SafetensorsEntry): TensorOutline[] {
  return [{ name, dtype: 'BF16', shape }];
}

async function writeConfig(from: string, to: string): Promise<void> {
  const config = await requireJsonFile(from, 'config.json', MODEL_JSON);
  const written = { ...config, quantization_config: writeQuantizationConfig([OUTPUT]) };
  await writeFile(join(to, 'config.json'), `${JSON.stringify(written, null, 2)}\n`);
}

async function copyCompanions(from: string, to: string): Promise<void> {
  for (const name of (await readdir(from)).sort()) {
    if (!COMPANIONS.test(name)) continue;
    const facts = await stat(join(from, name));
    if (facts.isFile() && facts.size <= MAX_COMPANION_BYTES)
      await writeFile(join(to, name), await readFile(join(from, name)));
  }
}

async function holdsFiles(folder: string): Promise<boolean> {
  try {
    return (await readdir(folder)).length > 0;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return false;
    throw new IntFlashError('ERR_ARG_RANGE', 'Expected the output to be a folder, got something else', {
      cause: error,
    });
  }
}

/** A folder that is replaced is kept under another name until the new one stands in its place. */
async function replaceFolder(from: string, to: string, isFull: boolean): Promise<void> {
  if (!isFull) {
    await rmdir(to).catch(() => undefined); // absent, or empty and in the way on some systems
    await rename(from, to);
    return;
  }
  const old = `${from}-old`;
  await rename(to, old);
  await rename(from, to);
  await rm(old, { recursive: true, force: true });
}
