import { markdownTable } from '../report/markdown-table.js';
import { formatBytes, formatCount } from '../units.js';
import type { BenchRow, Spread } from './bench-model.js';

export const BENCH_FORMATS = ['md', 'csv', 'json', 'jsonl'] as const;
export type BenchFormat = (typeof BENCH_FORMATS)[number];

/** Where the figures come from; tables leave it out. */
export interface BenchOrigin {
  readonly cpu: string;
  readonly commit?: string | undefined;
}

/** All rows in one of the formats that llama-bench has. */
export function benchOutput(rows: readonly BenchRow[], format: BenchFormat, origin: BenchOrigin): string {
  const records = rows.map((row) => flat(row, origin));
  switch (format) {
    case 'md':
      return `${markdown(rows)}\n`;
    case 'csv':
      return csv(records);
    case 'json':
      return `${JSON.stringify(records, null, 2)}\n`;
    case 'jsonl':
      return `${records.map((record) => JSON.stringify(record)).join('\n')}\n`;
  }
}

function markdown(rows: readonly BenchRow[]): string {
  const contexts = new Set(rows.map(({ context }) => context));
  const pp = contexts.size === 1 ? `pp${[...contexts][0]}` : 'pp';
  const head = ['model', 'size', 'params', 'backend', 'threads', 'attention', 'kv', 'batch', 'context'];
  return markdownTable(
    [...head, `${pp} t/s`, `tg${rows[0]!.newTokens} t/s`, 'ttft_ms'],
    rows.map((row) => [
      row.model,
      formatBytes(row.bytes),
      formatCount(row.parameters),
      row.backend,
      String(row.threads),
      row.attention,
      row.kv,
      String(row.batch),
      String(row.context),
      plusMinus(row.pp),
      plusMinus(row.tg),
      plusMinus(row.ttftMs),
    ]),
  );
}

function plusMinus({ mean, sd }: Spread): string {
  return `${mean.toFixed(2)} ± ${sd.toFixed(2)}`;
}

type BenchRecord = Record<string, string | number>;

function csv(records: readonly BenchRecord[]): string {
  const keys = Object.keys(records[0]!);
  const cell = (value: string | number) =>
    typeof value === 'number' ? String(value) : `"${value.replaceAll('"', '""')}"`;
  return `${[keys.join(','), ...records.map((record) => keys.map((key) => cell(record[key]!)).join(','))].join('\n')}\n`;
}

function flat({ pp, tg, ttftMs, ...row }: BenchRow, { cpu, commit }: BenchOrigin): BenchRecord {
  const round = (value: number) => Math.round(value * 1000) / 1000;
  return {
    ...(commit !== undefined && { commit }),
    cpu,
    ...row,
    pp_ts: round(pp.mean),
    pp_ts_sd: round(pp.sd),
    tg_ts: round(tg.mean),
    tg_ts_sd: round(tg.sd),
    ttft_ms: round(ttftMs.mean),
    ttft_ms_sd: round(ttftMs.sd),
  };
}
