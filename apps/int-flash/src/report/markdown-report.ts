import { markdownTable, markdownTextTable } from './markdown-table.js';
import { describeOrigin, type Report, reportTables, reportTitle } from './report-sections.js';

export function markdownReport(report: Report): string {
  const parts = [`# ${reportTitle(report)}`, describeOrigin(report.origin)];
  for (const { title, note, head, rows, isText } of reportTables(report)) {
    parts.push(`## ${title}`, note, (isText ? markdownTextTable : markdownTable)(head, rows));
  }
  return `${parts.join('\n\n')}\n`;
}
