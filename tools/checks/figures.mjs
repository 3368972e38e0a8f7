// Holds figures in documents to the measurements that are committed: what a comment marks must be what a results file has, rounded.
//   <!-- measured: docs/results/x.jsonl perplexity: 4.8688 12.8332 -->
//     each of these figures stands in the document and is some `perplexity` of the file; 0.9% is a hundred times it
//   <!-- measured: docs/results/x.jsonl ms precision=fp32 over precision=full-int8: 1.5 2.1 -->
//     each is the ratio of two records that differ in nothing else
//   <!-- measured: docs/results/x.jsonl relativeL2; rows variant; columns distribution; where bench=attention-error keys=4096 -->
//     in the table that follows, the cell in row `full-int8` and column `sink` is the relativeL2 of that record
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';

const COMMENT = /<!--\s*measured:\s*(\S+)\s+([^>]*?)\s*-->/g;

/** @returns {string[]} what is wrong in the text of `path`, a line each */
export function figureProblems(root, path, text) {
  const problems = [];
  for (const match of text.matchAll(COMMENT)) {
    const [whole, file, rule] = match;
    const line = text.slice(0, match.index).split('\n').length;
    const say = (message) => problems.push(`${path}:${line} ${message}`);
    if (!existsSync(join(root, file))) {
      say(`measures by ${file}, which does not exist`);
      continue;
    }
    const records = readRecords(join(root, file));
    const after = text.slice(match.index + whole.length);
    if (rule.includes(';')) checkTable(records, rule, after, file, say);
    else checkFigures(records, rule, text.replace(COMMENT, ''), file, say);
  }
  return problems;
}

function readRecords(path) {
  const text = readFileSync(path, 'utf8');
  return path.endsWith('.jsonl')
    ? text
        .trim()
        .split('\n')
        .map((line) => JSON.parse(line))
    : [JSON.parse(text)];
}

function checkFigures(records, rule, text, file, say) {
  const [, field, over, under, figures] = /^(\w+)(?:\s+(\S+=\S+) over (\S+=\S+))?:\s+(.+)$/.exec(rule) ?? [];
  if (!field) return say(`has a rule that is not understood: ${rule}`);
  const values = over ? ratiosOf(records, field, over.split('='), under.split('=')) : valuesOf(records, field);
  for (const figure of figures.split(/\s+/)) {
    const scale = figure.endsWith('%') ? 100 : 1;
    if (!values.some((value) => isRounded(figure.replace('%', ''), value * scale)))
      say(`says ${figure}, but no ${field} in ${file} rounds to it`);
    if (!new RegExp(`(?<![\\d.])${figure.replaceAll('.', '\\.')}(?![\\d]|\\.\\d)`).test(text)) {
      say(`holds ${figure} to ${file}, but the document does not say it`);
    }
  }
}

function checkTable(records, rule, after, file, say) {
  const [, field, rowField, columnField, where] =
    /^(\w+);\s*rows (\w+);\s*columns (\w+)(?:;\s*where (.+))?$/.exec(rule) ?? [];
  if (!field) return say(`has a rule that is not understood: ${rule}`);
  const conditions = (where ?? '')
    .split(/\s+/)
    .filter(Boolean)
    .map((part) => part.split('='));
  const wanted = records.filter((record) => conditions.every(([key, value]) => String(record[key]) === value));
  const lines = after.trimStart().split('\n');
  const end = lines.findIndex((line) => !line.startsWith('|'));
  const [head, , ...rows] = lines.slice(0, end < 0 ? lines.length : end).map((line) =>
    line
      .split('|')
      .slice(1, -1)
      .map((cell) => cell.trim()),
  );
  if (!head || rows.length === 0) return say('is followed by no table');
  let checked = 0;
  for (const row of rows) {
    const name = /`([^`]+)`/.exec(row[0])?.[1];
    if (name === undefined) continue;
    for (const [i, column] of head.entries()) {
      const heading = column.replaceAll('`', '');
      const record = wanted.find((candidate) => candidate[rowField] === name && candidate[columnField] === heading);
      if (i === 0) continue;
      if (!record && !wanted.some((candidate) => candidate[columnField] === heading)) {
        if (/\d/.test(row[i])) say(`says ${row[i]} under ${heading}, which no record of ${file} has`);
        continue;
      }
      if (!record) say(`has a row ${name}, which ${file} has not for ${heading}`);
      else if (!isRounded(row[i], record[field]))
        say(`says ${row[i]} for ${name}, ${heading}; ${file} has ${record[field]}`);
      checked++;
    }
  }
  if (checked === 0) say(`finds nothing of ${file} in the table that follows`);
}

/** Every number that stands under a key, at any depth. */
function valuesOf(value, key) {
  if (typeof value !== 'object' || value === null) return [];
  return Object.entries(value).flatMap(([name, inner]) =>
    name === key && typeof inner === 'number' ? [inner] : valuesOf(inner, key),
  );
}

/** The field of each record that has `over`, divided by that of the record that has `under` and is the same otherwise. */
function ratiosOf(records, field, over, under) {
  const having = ([key, value]) =>
    objectsIn(records).filter((record) => field in record && String(record[key]) === value);
  const sameness = (record) => {
    const conditions = Object.entries(record).filter(([key, value]) => {
      const isMeasured = typeof value === 'object' || (typeof value === 'number' && !Number.isInteger(value));
      return !isMeasured && ![field, over[0], under[0]].includes(key);
    });
    return JSON.stringify(conditions.sort());
  };
  const below = new Map(having(under).map((record) => [sameness(record), record[field]]));
  return having(over)
    .map((record) => record[field] / below.get(sameness(record)))
    .filter(Number.isFinite);
}

function objectsIn(value) {
  if (typeof value !== 'object' || value === null) return [];
  return [...(Array.isArray(value) ? [] : [value]), ...Object.values(value).flatMap(objectsIn)];
}

/** Whether `text` is `value` with as many digits as `text` has. */
function isRounded(text, value) {
  const figure = text.replaceAll(/[*`≈]/g, '').trim();
  const [mantissa, exponent] = figure.split('e');
  const digits = (mantissa.split('.')[1] ?? '').length;
  return figure === (exponent === undefined ? value.toFixed(digits) : value.toExponential(digits));
}
