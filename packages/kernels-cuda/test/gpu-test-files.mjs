import { createHash } from 'node:crypto';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const root = new URL('../../../', import.meta.url);

/** The GPU tests of the repository: package, as in `packages/llm`, to its files. */
export function gpuTestParts() {
  const packages = ['packages', 'apps'].flatMap((folder) =>
    readdirSync(fileURLToPath(new URL(folder, root))).map((name) => `${folder}/${name}`),
  );
  const withTests = packages.map((path) => [path, filesOf(path)]).filter(([, files]) => files.length > 0);
  return Object.fromEntries(withTests);
}

function filesOf(path) {
  const folder = fileURLToPath(new URL(`${path}/test`, root));
  if (!existsSync(folder)) return [];
  const files = readdirSync(folder, { recursive: true }).map((file) => `${path}/test/${file.replaceAll('\\', '/')}`);
  return files.filter((file) => file.endsWith('.gpu.test.ts')).sort();
}

/** Of a test file, as in `packages/llm/test/x.gpu.test.ts`: tells whether it is the one that ran. */
export function testDigest(file) {
  return createHash('sha256')
    .update(readFileSync(new URL(file, root)))
    .digest('hex')
    .slice(0, 16);
}
