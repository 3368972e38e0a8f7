/** A GitHub table; the first column is text, the others are numbers and stand to the right. */
export function markdownTable(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const line = (cells: readonly string[]) => `| ${cells.map((cell) => cell.replaceAll('|', '\\|')).join(' | ')} |`;
  const rule = head.map((_, i) => (i === 0 ? '---' : '---:'));
  return [line(head), `|${rule.join('|')}|`, ...rows.map(line)].join('\n');
}

/** Text tables, whose every column is read from the left. */
export function markdownTextTable(head: readonly string[], rows: readonly (readonly string[])[]): string {
  return markdownTable(head, rows).replaceAll('---:', '---');
}
