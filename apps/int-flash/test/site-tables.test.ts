import { readFileSync } from 'node:fs';
import { expect, it } from 'vitest';

const tool = (name: string) => import(new URL(`../../../tools/site/${name}.mjs`, import.meta.url).href);
const file = (path: string) => readFileSync(new URL(`../../../${path}`, import.meta.url), 'utf8');

it('shows the report of a GPU run below a heading of its own', async () => {
  const { stagePage } = await tool('stage-page');
  const page: string = stagePage('docs/site/research.md', file('docs/site/research.md'), new Map());
  const [, shown = ''] = page.split('\n## A run on an H200\n');
  const report = file('docs/results/h200/reproduce/report.md');
  const headings = (text: string, level: number) => text.match(new RegExp(`^#{${level}} .*$`, 'gm')) ?? [];
  expect(headings(report, 2).length).toBeGreaterThan(3);
  expect(headings(shown, 3)).toEqual(headings(report, 2).map((heading) => `#${heading}`));
  expect(headings(shown, 2)).toEqual([]);
  const rows = (text: string) => text.match(/^\|.*$/gm) ?? [];
  expect(rows(shown)).toEqual(rows(report));
  expect(shown).not.toContain('<!--');
});

it('says which tables there are where one is asked for that is not', async () => {
  const { resultTables } = await tool('result-tables');
  expect(() => resultTables('gpu-reproduced')).toThrow(/Expected a table among .*gpu-reproduce.*got gpu-reproduced/);
});
