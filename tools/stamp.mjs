import { createHash } from 'node:crypto';
import { mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { root } from './process.mjs';

/** Where stamps live: inside node_modules, so deleting that starts everything over. */
export const cacheDir = join(root, 'node_modules', '.cache', 'int-flash');

/** Generated or foreign; never an input. */
const SKIPPED = new Set(['node_modules', 'dist', 'build', 'coverage', '.git', '.turbo', '.gpu']);

/** Every file below `start` (or `start` itself), as absolute paths in a fixed order. */
export function filesBelow(start) {
  const stats = statSync(start, { throwIfNoEntry: false });
  if (!stats) return [];
  if (stats.isFile()) return [start];
  return readdirSync(start, { withFileTypes: true })
    .filter((entry) => !SKIPPED.has(entry.name))
    .sort((a, b) => (a.name < b.name ? -1 : 1))
    .flatMap((entry) => {
      const path = join(start, entry.name);
      if (entry.isDirectory()) return filesBelow(path);
      return entry.isFile() ? [path] : [];
    });
}

/** The names of the workspace packages, as paths relative to the root. */
export function workspacePackages() {
  return ['packages', 'apps'].flatMap((group) =>
    readdirSync(join(root, group), { withFileTypes: true })
      .filter((entry) => entry.isDirectory())
      .map((entry) => join(group, entry.name))
      .filter((path) => statSync(join(root, path, 'package.json'), { throwIfNoEntry: false })),
  );
}

/** A hash of what is in the files. */
export function contentHash(paths, ...facts) {
  return hash(paths, (path) => readFileSync(path), facts);
}

/** A hash of size and modification time: cheaper than reading, and a needless rebuild is all that a false alarm costs. */
export function mtimeHash(paths, ...facts) {
  return hash(
    paths,
    (path) => {
      const { size, mtimeMs } = statSync(path);
      return `${size} ${mtimeMs}`;
    },
    facts,
  );
}

function hash(paths, describe, facts) {
  const sum = createHash('sha256').update(JSON.stringify([process.platform, process.arch, ...facts]));
  for (const path of paths.flatMap(filesBelow)) sum.update(`\0${relative(root, path)}\0`).update(describe(path));
  return sum.digest('hex');
}

export function readStamp(path) {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return undefined; // no stamp yet
  }
}

export function writeStamp(path, value) {
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, value);
}
