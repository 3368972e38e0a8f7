import { type FileHandle, open, readdir, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import {
  checkBoolean,
  checkOptions,
  checkSignal,
  describe,
  fromFloat32,
  IntFlashError,
  readArguments,
} from '@int-flash/ops';
import { INT4_GROUPS, type Int4Group } from '@int-flash/quant';
import { type Checkpoint, openCheckpoint } from './checkpoint.js';
import { MODEL_JSON, readSmallFile, requireJsonFile } from './json-file.js';
import { quote } from './json-text.js';
import { checkLayerCount } from './model-weights.js';
import { type WriteFileOf, writeOutputFolder } from './output-folder.js';
import { type QuantizationScheme, writeQuantizationConfig } from './quantization-config.js';
import type { SafetensorsEntry } from './safetensors.js';
import { planSafetensors, type TensorOutline, writeSafetensorsFile } from './safetensors-writer.js';
import { tensorError } from './tensor-checks.js';
import { weightLayout } from './weight-layout.js';

export interface QuantizeOptions {
  /** 8 (the default): INT8, a scale a row. 4: INT4, a scale for each `group` columns. */
  readonly bits?: 8 | 4;
  /** With 4 bits: 32 (the default), 64 or 128. */
  readonly group?: Int4Group;
  readonly signal?: AbortSignal;
  /** Bytes of the input read so far, and all of them. */
  readonly onProgress?: (progress: { readonly loadedBytes: number; readonly totalBytes: number }) => void;
  /** Replace `outFolder` if it holds a model, and nothing else; default false. */
  readonly overwrite?: boolean;
}

export interface QuantizeSummary {
  /** Tensors of the input. */
  readonly tensors: number;
  /** How many of them became codes. */
  readonly quantized: number;
  /** Of the weight files. */
  readonly bytesIn: number;
  readonly bytesOut: number;
}

/** Copied as they are, when there: what a model is used with and what its licence asks to keep with it. */
const COMPANIONS =
  /^(tokenizer\.json|tokenizer_config\.json|special_tokens_map\.json|generation_config\.json|chat_template\.(jinja|json)|vocab\.json|merges\.txt|(model_card|readme|licen[cs]e|notice|attribution|use_policy)[\w.-]*)$/i;
const MODEL_FILES = /^(config\.json|[\w.-]+\.safetensors|[\w.-]+\.safetensors\.index\.json)$/;
const COMPANION = { ...MODEL_JSON, maxBytes: 2 ** 26 };
const WEIGHTS_FILE = 'model.safetensors';
const LAYER_LINEAR = /(?:^|\.)layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)\.weight$/;
const OUTPUT = 'lm_head';
const BFLOAT16_INFINITY = 0x7f80;

/**
 * Writes a float model again with INT8 or INT4 linear weights, in the layouts that transformers and vLLM read (compressed-tensors,
 * "int-quantized" and "pack-quantized"). Every other tensor becomes BF16.
 *
 * The output appears as a whole or not at all: it is written beside `outFolder` and renamed.
 * @throws {IntFlashError} `ERR_ARG_RANGE` (`outFolder` is not empty, holds what is no model's, is `inFolder` or a folder around it, or
 *   cannot be written: the cause says why), `ERR_UNSUPPORTED` (GPT-2, whose Conv1D layers the
 *   layout does not cover; a model that is quantized already), and what `openCheckpoint` throws. Rejects with `signal.reason`.
 */
export async function quantizeCheckpoint(
  inFolder: string,
  outFolder: string,
  options?: QuantizeOptions,
): Promise<QuantizeSummary> {
  const given = readArguments(() =>
    checkOptions(options, ['bits', 'group', 'signal', 'onProgress', 'overwrite'], 'options'),
  );
  const scheme = judgeScheme(given.bits, given.group);
  const signal = checkSignal(given.signal);
  const overwrite = checkBoolean(given.overwrite, 'overwrite', false);
  if (typeof outFolder !== 'string' || outFolder === '') {
    throw new IntFlashError('ERR_ARG_TYPE', `Expected the output folder to be a path, got ${describe(outFolder)}`);
  }
  const checkpoint = await openCheckpoint(inFolder, {
    signal,
    onProgress: given.onProgress as QuantizeOptions['onProgress'],
  });
  try {
    checkConvertible(checkpoint);
    checkLayerCount(checkpoint);
    const isReplaceable = (name: string) => MODEL_FILES.test(name) || COMPANIONS.test(name);
    return await writeOutputFolder(
      outFolder,
      { input: inFolder, overwrite, isReplaceable, signal },
      (folder, writeFileOf) => writeFolder(checkpoint, scheme, folder, writeFileOf),
    );
  } finally {
    await checkpoint.close();
  }
}

function judgeScheme(bits: unknown = 8, group: unknown = undefined): QuantizationScheme {
  if (bits !== 8 && bits !== 4)
    throw new IntFlashError('ERR_ARG_RANGE', `Expected bits to be 4 or 8, got ${describe(bits)}`);
  if (bits === 8) {
    if (group !== undefined)
      throw new IntFlashError('ERR_ARG_RANGE', 'Expected no group with 8 bits: a row has one scale');
    return { format: 'int-quantized' };
  }
  const size = group === undefined ? 32 : INT4_GROUPS.find((known) => known === group);
  if (size === undefined)
    throw new IntFlashError(
      'ERR_ARG_RANGE',
      `Expected group to be one of ${INT4_GROUPS.join(', ')}, got ${describe(group)}`,
    );
  return { format: 'pack-quantized', group: size };
}

async function writeFolder(
  checkpoint: Checkpoint,
  scheme: QuantizationScheme,
  folder: string,
  writeFileOf: WriteFileOf,
): Promise<QuantizeSummary> {
  const layout = weightLayout(scheme);
  const entries = checkpoint.entries().filter((entry) => !isTiedOutput(checkpoint, entry));
  const isLinear = (entry: SafetensorsEntry) => entry.shape.length === 2 && LAYER_LINEAR.test(entry.name);
  const plan = planSafetensors(
    entries.flatMap((entry) =>
      isLinear(entry) ? layout.outline(entry.name, entry.shape[0]!, entry.shape[1]!) : floatOutline(entry),
    ),
    {
      format: 'pt', // transformers refuses a file that does not name its framework
    },
  );
  const byName = new Map(entries.map((entry) => [entry.name, entry]));
  const file = await writeFileOf(WEIGHTS_FILE, () => open(join(folder, WEIGHTS_FILE), 'wx'));
  try {
    const append = (bytes: Uint8Array) => writeFileOf(WEIGHTS_FILE, () => writeFully(file, bytes));
    // Wide elements come first in the file, so a linear weight is read once for each tensor that needs it.
    await writeSafetensorsFile(append, plan, async (name) => {
      const suffix = layout.suffixes.find((end) => byName.has(stripped(name, end))) ?? '';
      const entry = byName.get(stripped(name, suffix))!;
      const read = () => checkpoint.readFloats(entry.name, entry.shape);
      if (!isLinear(entry)) return { dtype: 'BF16', shape: entry.shape, data: toBfloat16(name, await read()) };
      const [rows, cols] = entry.shape as [number, number];
      return layout.make(entry.name, suffix, { rows, cols }, read);
    });
    await writeFileOf(WEIGHTS_FILE, () => file.sync());
  } catch (error) {
    await file.close().catch(() => undefined); // what came first is told
    throw error;
  }
  await writeFileOf(WEIGHTS_FILE, () => file.close());
  const writeBeside = (name: string, content: string | Uint8Array) =>
    writeFileOf(name, () => writeFile(join(folder, name), content));
  await writeBeside('config.json', await quantizedConfig(checkpoint.folder, scheme));
  await copyCompanions(checkpoint.folder, writeBeside);
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

/** Loading refuses what the rounding would make infinite. */
function toBfloat16(name: string, values: Float32Array): Uint16Array {
  const bits = fromFloat32(values, 'bfloat16');
  for (let i = 0; i < bits.length; i++) {
    if ((bits[i]! & BFLOAT16_INFINITY) === BFLOAT16_INFINITY)
      throw tensorError(name, `Expected ${quote(name)} to be finite in BF16, got ${values[i]} at element ${i}`);
  }
  return bits;
}

/** Some writers store the tied output matrix a second time. */
function isTiedOutput({ config }: Checkpoint, { name }: SafetensorsEntry): boolean {
  return config.tiedEmbeddings && name === `${OUTPUT}.weight`;
}

/** The name without the suffix; one that names nothing when it has another end. */
function stripped(name: string, suffix: string): string {
  return name.endsWith(suffix) ? name.slice(0, name.length - suffix.length) : '';
}

function floatOutline({ name, shape }: SafetensorsEntry): TensorOutline[] {
  return [{ name, dtype: 'BF16', shape }];
}

async function writeFully(file: FileHandle, bytes: Uint8Array): Promise<void> {
  for (let done = 0; done < bytes.length; ) done += (await file.write(bytes, done, bytes.length - done)).bytesWritten;
}

async function quantizedConfig(from: string, scheme: QuantizationScheme): Promise<string> {
  const config = await requireJsonFile(from, 'config.json', MODEL_JSON);
  const written = { ...config, quantization_config: writeQuantizationConfig([OUTPUT], scheme) };
  return `${JSON.stringify(written, null, 2)}\n`;
}

async function copyCompanions(
  from: string,
  write: (name: string, content: Uint8Array) => Promise<void>,
): Promise<void> {
  for (const name of (await namesIn(from)).sort()) {
    if (!COMPANIONS.test(name)) continue;
    const facts = await stat(join(from, name)).catch(() => undefined); // reading it says why
    if (facts && !(facts.isFile() && facts.size <= COMPANION.maxBytes)) continue;
    const bytes = await readSmallFile(from, name, COMPANION);
    if (bytes) await write(name, bytes); // a link may lead nowhere
  }
}

async function namesIn(folder: string): Promise<string[]> {
  try {
    return await readdir(folder);
  } catch (cause) {
    const reason = (cause as NodeJS.ErrnoException).code ?? 'an error';
    throw new IntFlashError('ERR_MODEL_FORMAT', `Expected the model folder to be readable, got ${reason}`, { cause });
  }
}
