import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { root } from '../process.mjs';

const MAX = 10;
const REASONS = 'docs/dependencies.md';

/**
 * What users install besides these packages, and what those bring along in turn, is in docs/dependencies.md with its reason; and it is little.
 *
 * @param {string} home a folder in which npm has installed all of them
 * @returns {string[]} problems
 */
export function checkDependencies(home) {
  const { packages } = JSON.parse(readFileSync(join(home, 'node_modules/.package-lock.json'), 'utf8'));
  const installed = Object.entries(packages)
    .map(([path, { version }]) => ({ name: path.replace(/^.*node_modules\//, ''), version }))
    .filter(({ name }) => name !== 'int-flash' && !name.startsWith('@int-flash/'))
    .map(({ name, version }) => `| \`${name}\` | ${version} |`);
  const listed = readFileSync(join(root, REASONS), 'utf8').match(/^\| `[^|]+\| [\d.]+ \|/gm) ?? [];
  const problems = [
    ...installed
      .filter((row) => !listed.includes(row))
      .map((row) => `${REASONS} has no line ${row}, which is installed`),
    ...listed
      .filter((row) => !installed.includes(row))
      .map((row) => `${REASONS} has a line ${row}, which nothing installs`),
  ];
  if (installed.length > MAX) problems.push(`Expected at most ${MAX} packages besides ours, got ${installed.length}`);
  return problems;
}
