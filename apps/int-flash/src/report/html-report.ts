import type { ReproductionReport } from '../experiments/reproduction.js';
import { dotPlot, linePlot } from './plots.js';
import { describeOrigin, isComplete, type Report, reportTables, reportTitle } from './report-sections.js';
import { type ReportTable, VARIANT_NAMES } from './report-tables.js';

const STYLE = `
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; margin: 1rem 0; display: block; overflow-x: auto; }
th, td { padding: 0.25rem 0.6rem; border-bottom: 1px solid #8884; text-align: right; vertical-align: top; }
th { font-weight: 600; }
td { font-variant-numeric: tabular-nums; }
th:first-child, td:first-child, .text th, .text td { text-align: left; }
figure { margin: 1rem 0; }
code { font-family: ui-monospace, monospace; }
`;

/** One file that needs nothing else: no script, no outside style, font or image. */
export function htmlReport(report: Report): string {
  const title = escapeHtml(reportTitle(report));
  const plots = isComplete(report) ? plotsByTable(report) : new Map<string, string>();
  const sections = reportTables(report).map((table) => section(table, plots.get(table.title) ?? ''));
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>${title}</title>
<style>${STYLE}</style>
</head>
<body>
<h1>${title}</h1>
<p>${code(escapeHtml(describeOrigin(report.origin)))}</p>
${sections.join('\n')}
</body>
</html>
`;
}

function plotsByTable({ speed, errors, script }: ReproductionReport): Map<string, string> {
  const timed = speed.rows.filter(({ ms }) => ms !== null);
  const uniform = script.rows.filter(({ distribution }) => distribution === 'uniform');
  const plots = new Map<string, string>();
  if (timed.length > 0) {
    plots.set(
      'Speed',
      linePlot(
        { title: 'Milliseconds by tokens', x: 'tokens', y: 'ms' },
        timed.map(({ keys, ms, variant }) => ({
          x: keys,
          y: ms!,
          series: variant === 'fp16' ? speed.baselineType : variant,
        })),
      ),
    );
  }
  plots.set(
    'Error on every kind of input',
    dotPlot(
      { title: 'Relative L2 by kind of input', x: 'relative L2 error', y: '' },
      errors.rows
        .filter(({ variant }) => variant !== 'fp32' && variant !== 'flash-d') // a thousand times smaller than the others
        .map(({ distribution, relativeL2, variant }) => ({
          x: relativeL2,
          y: distribution,
          series: VARIANT_NAMES[variant],
        })),
    ),
  );
  plots.set(
    "The paper's accuracy test",
    linePlot(
      { title: 'Mean relative error on U(0, 1) by keys', x: 'keys, inputs U(0, 1)', y: 'mean relative error' },
      uniform
        .filter(({ variant }) => variant !== 'flash-d')
        .map(({ keys, mre, variant }) => ({ x: keys, y: mre, series: VARIANT_NAMES[variant] })),
    ),
  );
  return plots;
}

function section({ title, note, head, rows, isText }: ReportTable, plot: string): string {
  const cells = (tag: string, row: readonly string[]) =>
    row.map((cell) => `<${tag}>${escapeHtml(cell)}</${tag}>`).join('');
  return `<h2>${escapeHtml(title)}</h2>
<p>${code(escapeHtml(note))}</p>
${plot}
<table${isText ? ' class="text"' : ''}>
<thead><tr>${cells('th', head)}</tr></thead>
<tbody>
${rows.map((row) => `<tr>${cells('td', row)}</tr>`).join('\n')}
</tbody>
</table>`;
}

function escapeHtml(text: string): string {
  return text.replace(/[&<>"]/g, (char) => ({ '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;' })[char]!);
}

/** What stands in backticks. */
function code(text: string): string {
  return text.replace(/`([^`]+)`/g, '<code>$1</code>');
}
