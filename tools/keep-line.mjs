// Files of results, a line of JSON a measurement.
import { existsSync, readFileSync, writeFileSync } from 'node:fs';

/**
 * Writes `line` to `file` in place of the line that was about the same, or as its last one; all others stay. So a measurement is kept as soon as it
 * is known, and a run of some cases leaves those of others alone.
 * @param {string} file
 * @param {object} line
 * @param {(line: any) => unknown} keyOf  of two lines about the same it is the same, as JSON
 */
export function keepLine(file, line, keyOf) {
  const lines = existsSync(file) ? readFileSync(file, 'utf8').split('\n').filter(Boolean) : [];
  const key = JSON.stringify(keyOf(line));
  const at = lines.findIndex((other) => JSON.stringify(keyOf(JSON.parse(other))) === key);
  lines.splice(at < 0 ? lines.length : at, at < 0 ? 0 : 1, JSON.stringify(line));
  writeFileSync(file, `${lines.join('\n')}\n`);
}
