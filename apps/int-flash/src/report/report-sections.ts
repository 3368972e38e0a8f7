import type { KvCacheReport, ReportOrigin, ReproductionReport } from '../experiments/reproduction.js';
import {
  claimsTable,
  errorTable,
  kvFitTable,
  kvFormatTable,
  kvModelTable,
  metricsTable,
  perChannelTable,
  type ReportTable,
  scriptTable,
  speedTable,
} from './report-tables.js';

export const REPORT_PARTS = ['all', 'kv-cache'] as const;
export type ReportPart = (typeof REPORT_PARTS)[number];

export type Report = ReproductionReport | KvCacheReport;

export function isComplete(report: Report): report is ReproductionReport {
  return 'speed' in report;
}

export function reportTitle(report: Report): string {
  return isComplete(report) ? 'INT-FlashAttention, reproduced' : 'KV-cache formats, measured';
}

/** The tables of a report, in reading order. */
export function reportTables(report: Report): ReportTable[] {
  const cache = [
    kvFormatTable(report.formats),
    perChannelTable(report.perChannel),
    ...(report.kvModel ? [kvModelTable(report.kvModel)] : []),
    ...(report.kvFit ? [kvFitTable(report.kvFit)] : []),
  ];
  const { claims } = report;
  if (!isComplete(report)) return [claimsTable(claims), ...cache];
  const { speed, errors, script } = report;
  return [
    claimsTable(claims),
    speedTable(speed),
    errorTable(errors),
    scriptTable(script),
    metricsTable(errors),
    ...cache,
  ];
}

export function describeOrigin({ version, date, cpu, threads, backend, quick }: ReportOrigin): string {
  const how = quick ? 'int-flash reproduce --quick' : 'int-flash reproduce';
  const scope = quick
    ? ' Its texts are short and its memory small: without --quick, perplexities and numbers of sequences are others.'
    : '';
  return `Every figure was measured by \`${how}\` (int-flash ${version}) on ${date}: ${cpu}, backend ${backend}, ${threads} threads.${scope}`;
}
