import type { Command } from 'commander';
import type { App } from '../app.js';
import { kvCacheBytes } from '../kv-cache-bytes.js';
import { findModel } from '../model-folder.js';
import { type OutputOptions, path, withOutputOptions } from '../options.js';
import { KV_CACHE_CHOICES, type ModelDescription } from '../runtime.js';
import { labelled, rule } from '../screen.js';
import { onOneLine, type Paint } from '../terminal.js';
import { formatBytes, formatCount } from '../units.js';

export function addInspect(program: Command, app: App): void {
  const command = program
    .command('inspect')
    .description("what a model's files say: shape, tensors, memory for its cache, special tokens")
    .argument(
      '[model]',
      'folder in Hugging Face format, or a GGUF file (default: INT_FLASH_MODEL, else the demo model)',
      path,
    );
  withOutputOptions(command).action(async (folder: string | undefined, options: OutputOptions) => {
    const model = await app.runtime.describeModel(findModel(folder, app.env));
    const { columns, paint } = app.terminal;
    const text = options.json
      ? `${JSON.stringify(inspectReport(model), null, 2)}\n`
      : inspectScreen(model, columns, paint);
    await app.terminal.write(text);
  });
}

function inspectReport(model: ModelDescription): Record<string, unknown> {
  return { ...model, kvCacheBytes: cacheMemory(model) };
}

/** Bytes that the cache of one sequence takes at the model's full context, for each way of keeping it. */
function cacheMemory(model: ModelDescription): Record<string, number> {
  return Object.fromEntries(KV_CACHE_CHOICES.map((dtype) => [dtype, kvCacheBytes(model, dtype, model.contextLength)]));
}

function inspectScreen(model: ModelDescription, columns: number, paint: Paint): string {
  const row = (label: string, text: string) => labelled(label, onOneLine(text), columns, paint);
  const memory = Object.entries(cacheMemory(model)).map(([dtype, bytes]) => `${dtype} ${formatBytes(bytes)}`);
  const special = model.specialTokens.map(({ id, text, role }) => `${text} ${id}${role ? ` (${role})` : ''}`);
  return [
    rule(onOneLine(model.name), columns, paint),
    row(
      'model',
      `${model.architecture}, ${formatCount(model.parameters)} parameters (${model.parameters.toLocaleString('en-US')}), ${formatBytes(model.bytes)}`,
    ),
    row('layers', `${model.layers}, hidden ${model.hiddenSize}, feed-forward ${model.feedForwardSize}`),
    row(
      'attention',
      `${model.heads} heads, ${model.kvHeads} key/value heads, head size ${model.headDim}${model.slidingWindow ? `, sliding window ${model.slidingWindow}` : ''}`,
    ),
    row(
      'weights',
      `${model.weights}${model.quantization === 'none' ? '' : ` (${model.quantization})`}; ${model.tiedEmbeddings ? 'output tied to the embedding' : 'separate output matrix'}`,
    ),
    row(
      'vocabulary',
      `${model.vocabularySize.toLocaleString('en-US')} tokens; ${model.chatTemplate ? 'has' : 'no'} chat template`,
    ),
    row('context', `${model.contextLength.toLocaleString('en-US')} tokens; cache at full length: ${memory.join(', ')}`),
    row('special', special.join(', ') || 'none'),
    rule(`${model.tensors.length} tensors`, columns, paint),
    ...tensorTable(model, columns),
    '',
  ].join('\n');
}

function tensorTable({ tensors }: ModelDescription, columns: number): string[] {
  return tensors.map(({ name, dtype, shape, bytes }) => {
    const facts = `${dtype.padEnd(9)}${`[${shape.join(', ')}]`.padEnd(14)}${formatBytes(bytes).padStart(9)}`;
    return `${onOneLine(name).padEnd(columns - facts.length - 1)} ${facts}`;
  });
}
