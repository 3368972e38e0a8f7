import { isComplete, type Report } from './report-sections.js';

/** What a report says about accuracy as docs/results keeps it: a measurement a line, each with where it comes from. Times have benchmarks of their own; of them only what a claim needs is here. */
export function resultLines(report: Report, commit: string | null): string {
  const { cpu, threads, backend, quick } = report.origin;
  const origin = { ...(commit && { commit }), cpu, threads, backend, ...(quick && { quick }) };
  const lines: object[] = [];
  const add = (bench: string, rows: readonly object[], shape: object = {}) => {
    for (const row of rows) lines.push({ bench, ...origin, ...shape, ...row });
  };
  add('claim', report.claims, { part: isComplete(report) ? 'all' : 'kv-cache' });
  if (isComplete(report)) {
    const { errors, script } = report;
    for (const [bench, table] of [
      ['attention-error', errors],
      ['attention-error-script', script],
    ] as const) {
      const { rows, ...shape } = table;
      add(bench, rows, shape);
    }
  }
  const { rows: formats, ...shape } = report.formats;
  add('kv-cache-format', formats, shape);
  add('kv-cache-per-channel', report.perChannel);
  if (report.kvModel) {
    const { rows, ...read } = report.kvModel;
    add('kv-cache-model', rows, read);
  }
  if (report.kvFit) add('kv-cache-fit', report.kvFit);
  return `${lines.map((line) => JSON.stringify(line)).join('\n')}\n`;
}
