import { type Command, Option } from 'commander';
import type { App } from '../app.js';
import { UsageError } from '../failures.js';
import { findModel } from '../model-folder.js';
import { type OutputOptions, path, withOutputOptions } from '../options.js';
import { withProgressBar } from '../progress-bar.js';
import { stoppable } from '../stoppable.js';
import { formatBytes, formatSeconds } from '../units.js';

type QuantizeOptions = OutputOptions & {
  readonly overwrite?: boolean;
  readonly bits: '4' | '8';
  readonly group?: '32' | '64' | '128';
};

export function addQuantize(program: Command, app: App): void {
  const command = program
    .command('quantize')
    .description(
      'write a model again with INT8 or INT4 linear weights (compressed-tensors, as vLLM and transformers read it)',
    )
    .argument('<in>', 'folder in Hugging Face format, float weights', path)
    .argument('<out>', 'folder to write; created when absent', path)
    .addOption(
      new Option('--bits <n>', 'of a weight: 8 with a scale a row, 4 with one a group')
        .choices(['8', '4'])
        .default('8'),
    )
    .addOption(
      new Option('--group <n>', 'columns that share a scale, with --bits 4 (default: 32)').choices(['32', '64', '128']),
    )
    .option('--overwrite', 'replace the folder when it holds a model (and nothing else)');
  withOutputOptions(command).action((from: string, to: string, options: QuantizeOptions) =>
    stoppable(app.terminal, (signal) => quantize(app, from, to, options, signal)),
  );
}

async function quantize(
  app: App,
  from: string,
  to: string,
  options: QuantizeOptions,
  signal: AbortSignal,
): Promise<void> {
  const { terminal } = app;
  const { bits, group } = options;
  if (group !== undefined && bits !== '4')
    throw new UsageError('Expected --group with --bits 4 only: INT8 has a scale a row');
  const folder = findModel(from, app.env);
  const started = performance.now();
  const quiet = options.quiet === true || options.json === true;
  const summary = await withProgressBar(terminal, 'quantizing', quiet, (onProgress) =>
    app.runtime.quantize(folder, to, {
      bits: bits === '4' ? 4 : 8,
      ...(group !== undefined && { group: Number(group) as 32 | 64 | 128 }),
      overwrite: options.overwrite === true,
      signal,
      onProgress,
    }),
  );
  const ms = performance.now() - started;
  if (options.json) {
    await terminal.writeLine(JSON.stringify({ from: folder, to, ...summary, ms: Math.round(ms) }, null, 2));
    return;
  }
  await terminal.writeLine(
    `${to}: ${summary.quantized} of ${summary.tensors} tensors as INT${bits}, ${formatBytes(summary.bytesIn)} → ${formatBytes(summary.bytesOut)} in ${formatSeconds(ms)}`,
  );
}
