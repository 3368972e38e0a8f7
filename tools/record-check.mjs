#!/usr/bin/env node
// Keeps what a check by hand said in docs/results/cpu/native-checks.jsonl, a line a check: record-check.mjs NAME < its output.
// Its last line of figures is kept with the numbers in it; a check that printed none has failed.
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { measuredOn } from './measured-on.mjs';

const [check] = process.argv.slice(2);
const said = readFileSync(0, 'utf8').trim().split('\n');
const figures = {};
for (const line of said) {
  const calls = line.match(/^\S+: (\d+) threads, (\d+) calls each, (\d+) failures, (\d+) bytes left$/);
  if (calls) Object.assign(figures, numbers({ threads: calls[1], callsEach: calls[2], failures: calls[3] }));
  const cases = line.match(/^\S+: (\d+) cases against \S+, (\d+) differ$/); // a line an instruction set, of as many cases each
  if (cases) Object.assign(figures, numbers({ cases: cases[1], differ: Number(cases[2]) + (figures.differ ?? 0) }));
}
if (Object.keys(figures).length === 0) throw new Error(`Expected figures in what ${check} printed, got none`);
const file = new URL('../docs/results/cpu/native-checks.jsonl', import.meta.url);
const lines = existsSync(file) ? readFileSync(file, 'utf8').split('\n').filter(Boolean) : [];
const others = lines.filter((line) => JSON.parse(line).check !== check);
writeFileSync(file, [...others, JSON.stringify({ ...measuredOn(), check, ...figures })].map((l) => `${l}\n`).join(''));

function numbers(texts) {
  return Object.fromEntries(Object.entries(texts).map(([name, text]) => [name, Number(text)]));
}
