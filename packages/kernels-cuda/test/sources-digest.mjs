import { createHash } from 'node:crypto';
import { readdirSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const home = new URL('../', import.meta.url);

/**
 * sha256 over native/ and kernels/: path, NUL, content, NUL of every file, in the order of the paths. The record of the last GPU run
 * carries it, so that a change to the kernels which no GPU has seen fails the unit tests.
 */
export function sourcesDigest() {
  const sum = createHash('sha256');
  for (const path of ['kernels', 'native'].flatMap(filesBelow).sort()) {
    sum
      .update(`${path}\0`)
      .update(readFileSync(new URL(path, home)))
      .update('\0');
  }
  return sum.digest('hex');
}

function filesBelow(folder) {
  return readdirSync(fileURLToPath(new URL(folder, home)), { withFileTypes: true }).flatMap((entry) =>
    entry.isDirectory() ? filesBelow(`${folder}/${entry.name}`) : [`${folder}/${entry.name}`],
  );
}
