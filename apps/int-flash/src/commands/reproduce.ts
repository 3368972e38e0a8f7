import { writeFile } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { Argument, type Command, Option } from 'commander';
import type { App } from '../app.js';
import { shippedModel } from '../model-folder.js';
import { type OutputOptions, path, withOutputOptions } from '../options.js';
import { claimFile, claimFolder, removeEmpty } from '../output-place.js';
import { withProgressBar } from '../progress-bar.js';
import { markdownReport } from '../report/markdown-report.js';
import { REPORT_PARTS, type ReportPart } from '../report/report-sections.js';
import { resultLines } from '../report/result-lines.js';
import { BACKEND_CHOICES, type BackendChoice } from '../runtime.js';
import { stoppable } from '../stoppable.js';
import { formatSeconds } from '../units.js';

type ReproduceOptions = OutputOptions & {
  readonly quick?: boolean;
  readonly backend: BackendChoice;
  readonly out: string;
  readonly results?: string;
};

export function addReproduce(program: Command, app: App): void {
  const command = program
    .command('reproduce')
    .description("the paper's tables and ours, measured now: speed, error, KV-cache formats, each claim with ✓ or ✗")
    .addArgument(new Argument('[part]', 'what to measure').choices(REPORT_PARTS).default('all'))
    .option('--quick', 'about a minute on two cores instead of some minutes: fewer rows and seeds, shorter texts')
    .addOption(new Option('--backend <name>', 'where to compute').choices(BACKEND_CHOICES).default('auto'))
    .option('--out <folder>', 'where report.md, report.html and report.json go', path, 'int-flash-report')
    .option(
      '--results <file>',
      'also write the measurements of accuracy, a line of JSON each, as docs/results/cpu/accuracy.jsonl keeps them',
      path,
    );
  withOutputOptions(command).action((part: ReportPart, options: ReproduceOptions) =>
    stoppable(app.terminal, async (signal) => {
      const made: string[] = [];
      try {
        await run(app, part, options, made, signal);
      } finally {
        await removeEmpty(made);
      }
    }),
  );
}

async function run(
  { terminal, runtime, env }: App,
  part: ReportPart,
  options: ReproduceOptions,
  made: string[],
  signal: AbortSignal,
): Promise<void> {
  const folder = resolve(options.out);
  await claimFolder(folder, made);
  if (options.results !== undefined) await claimFile(options.results, made);
  const quiet = options.quiet === true || options.json === true;
  const settings = { quick: options.quick === true, backend: options.backend, model: shippedModel() ?? null, signal };
  const started = performance.now();
  const report = await withProgressBar(terminal, 'measuring', quiet, (onProgress) =>
    runtime.reproduce(part, settings, onProgress),
  );
  signal.throwIfAborted(); // a report is whole or not there
  const markdown = markdownReport(report);
  const json = `${JSON.stringify(report, null, 2)}\n`;
  await writeFile(join(folder, 'report.md'), markdown);
  const { htmlReport } = await import('../report/html-report.js'); // brings a plotting library along
  await writeFile(join(folder, 'report.html'), htmlReport(report));
  await writeFile(join(folder, 'report.json'), json);
  if (options.results !== undefined)
    await writeFile(options.results, resultLines(report, env.INT_FLASH_COMMIT ?? null));
  await terminal.write(options.json ? json : markdown);
  if (!quiet) {
    const took = formatSeconds(performance.now() - started);
    terminal.note(terminal.notePaint.dim(`${took}; report.md, report.html and report.json in ${folder}`));
  }
}
