// Lets the changesets write the next version, in a copy: all public packages must come out with the same one, each with its changelog.
import { cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { root, runNode } from '../process.mjs';
import { workspacePackages } from '../stamp.mjs';

const copy = mkdtempSync(join(tmpdir(), 'int-flash-versions-'));
const problems = [];
try {
  const packages = workspacePackages();
  const files = ['package.json', 'pnpm-workspace.yaml', 'pnpm-lock.yaml', '.changeset'];
  for (const path of [...files, ...packages.map((path) => join(path, 'package.json'))]) {
    mkdirSync(dirname(join(copy, path)), { recursive: true });
    cpSync(join(root, path), join(copy, path), { recursive: true });
  }
  symlinkSync(join(root, 'node_modules'), join(copy, 'node_modules'), 'junction');
  const before = packages.map((path) => manifestOf(path)).filter(({ manifest }) => !manifest.private);
  const changeset = join(root, 'node_modules/@changesets/cli/bin.js');
  const { status, output } = await runNode([changeset, 'version'], { cwd: copy });
  if (status !== 0) problems.push(`changeset version failed\n${output}`);
  const after = before.map(({ path }) => manifestOf(path));
  const versions = new Set(after.map(({ manifest }) => manifest.version));
  if (versions.size > 1) problems.push(`Expected one version for all packages, got ${[...versions].join(', ')}`);
  for (const [i, { path, manifest }] of after.entries()) {
    if (manifest.version === before[i].manifest.version)
      problems.push(`${path} would keep version ${manifest.version}`);
    if (!existsSync(join(copy, path, 'CHANGELOG.md'))) problems.push(`${path} would get no changelog`);
  }
} finally {
  rmSync(copy, { recursive: true, force: true });
}
for (const problem of problems) console.log(problem);
process.exitCode = problems.length > 0 ? 1 : 0;

function manifestOf(path) {
  return { path, manifest: JSON.parse(readFileSync(join(copy, path, 'package.json'), 'utf8')) };
}
