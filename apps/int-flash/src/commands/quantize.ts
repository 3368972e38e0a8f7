import type { Command } from 'commander';
import type { App } from '../app.js';
import { findModel } from '../model-folder.js';
import { type OutputOptions, withOutputOptions } from '../options.js';
import { withProgressBar } from '../progress-bar.js';
import { stoppable } from '../stoppable.js';
import { formatBytes, formatSeconds } from '../units.js';

type QuantizeOptions = OutputOptions & { readonly overwrite?: boolean };

export function addQuantize(program: Command, app: App): void {
  const command = program
    .command('quantize')
    .description('write a model again with INT8 linear weights (compressed-tensors, one scale a row)')
    .argument('<in>', 'folder in Hugging Face format, float weights')
    .argument('<out>', 'folder to write; created when absent')
    .option('--overwrite', 'replace the folder when it holds files');
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
  const folder = findModel(from, app.env);
  const started = performance.now();
  const quiet = options.quiet === true || options.json === true;
  const summary = await withProgressBar(terminal, 'quantizing', quiet, (onProgress) =>
    app.runtime.quantize(folder, to, { overwrite: options.overwrite === true, signal, onProgress }),
  );
  const ms = performance.now() - started;
  if (options.json) {
    await terminal.writeLine(JSON.stringify({ from: folder, to, ...summary, ms: Math.round(ms) }, null, 2));
    return;
  }
  await terminal.writeLine(
    `${to}: ${summary.quantized} of ${summary.tensors} tensors as INT8, ${formatBytes(summary.bytesIn)} → ${formatBytes(summary.bytesOut)} in ${formatSeconds(ms)}`,
  );
}
