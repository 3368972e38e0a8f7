import { readFile } from 'node:fs/promises';
import type { Command } from 'commander';
import type { App } from '../app.js';
import { UsageError } from '../failures.js';
import { withModel } from '../load.js';
import { integer, type ModelOptions, path, withComputeOptions } from '../options.js';
import { withProgressBar } from '../progress-bar.js';
import { stoppable } from '../stoppable.js';
import { formatSeconds } from '../units.js';

type PerplexityOptions = ModelOptions & { readonly window: number };

export function addPerplexity(program: Command, app: App): void {
  const command = program
    .command('perplexity')
    .description('how well a model predicts a text: windows in a row, all but the first token of each predicted')
    .argument('<model>', 'folder in Hugging Face format, or a GGUF file', path)
    .argument('<text>', 'UTF-8 text file; special tokens in it are read as such', path)
    .option('--window <tokens>', 'tokens read at a time', integer(2, 1_000_000), 1024);
  withComputeOptions(command).action((model: string, file: string, options: PerplexityOptions) =>
    stoppable(app.terminal, (signal) => perplexity(app, { ...options, model }, file, signal)),
  );
}

async function perplexity(app: App, options: PerplexityOptions, file: string, signal: AbortSignal): Promise<void> {
  const { terminal } = app;
  const text = await readText(file, signal);
  await withModel(app, options, signal, async ({ model }) => {
    const quiet = options.quiet === true || options.json === true;
    const started = performance.now();
    const result = await withProgressBar(terminal, 'reading', quiet, (onProgress) =>
      model.perplexity(text, options.window, signal, onProgress),
    );
    const ms = performance.now() - started;
    const { window } = options;
    const { attention, kvCacheDtype, kvKeyScales } = model;
    if (options.json) {
      const { name: backend, isa, threads } = model.backend;
      const where = { model: model.facts.name, text: file, backend, isa, threads };
      const how = { attention, kvCacheDtype, kvKeyScales, window };
      await terminal.writeLine(
        JSON.stringify({ ...where, ...how, ...result, seconds: Math.round(ms) / 1000 }, null, 2),
      );
      return;
    }
    await terminal.writeLine(
      `perplexity ${result.perplexity.toFixed(4)}, ${result.natsPerToken.toFixed(6)} nats a token`,
    );
    if (!options.quiet) {
      const cache = `${kvCacheDtype} cache${kvKeyScales === 'channel' ? ', scales of keys a channel' : ''}`;
      const how = `${result.predicted} of ${result.tokens} tokens predicted, windows of ${window}`;
      terminal.note(terminal.notePaint.dim(`${how}, ${attention} attention, ${cache}, ${formatSeconds(ms)}`));
    }
  });
}

async function readText(file: string, signal: AbortSignal): Promise<string> {
  try {
    const text = await readFile(file, { encoding: 'utf8', signal });
    if (text !== '') return text;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EISDIR') throw error;
    throw new UsageError(`Expected a text file, got a folder: ${file}`, 'Name a file in it.');
  }
  throw new UsageError(`Expected a text file, got an empty one: ${file}`);
}
