import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { PhaseError, root, runTool, say } from '../process.mjs';
import { cacheDir, mtimeHash, readStamp, workspacePackages, writeStamp } from '../stamp.mjs';

/** What the build reads that is not inside a package. */
const SHARED_INPUTS = [
  'tsconfig.base.json',
  'tsconfig.build.json',
  'turbo.json',
  'tools/tsup-config.ts',
  'tools/bundled-licences.mjs',
  'pnpm-lock.yaml',
];

/**
 * Builds every package with turbo, which rebuilds only what changed. Not even turbo starts when no file did.
 * @param {'js' | 'js+types'} what the .d.ts files take most of the time, and only a publisher or a consumer needs them
 */
export async function buildPackages(what) {
  const packages = workspacePackages().filter(isBuilt);
  const inputs = packages.flatMap((path) =>
    ['src', 'index.html', 'package.json', 'tsup.config.ts', 'vite.config.ts', 'file-list.ts', 'licences.ts'].map(
      (name) => join(root, path, name),
    ),
  );
  const stamp = mtimeHash([...inputs, ...SHARED_INPUTS.map((path) => join(root, path))]);
  const tasks = (what === 'js' ? ['build:js'] : ['build:js', 'build:types']).filter((task) => {
    const built = packages.every((path) => existsSync(join(root, path, 'dist')));
    return !built || readStamp(stampFile(task)) !== stamp;
  });
  if (tasks.length === 0) return;

  say('building…');
  const { status, output } = await runTool('turbo/bin/turbo', ['run', ...tasks, '--output-logs=errors-only']);
  if (status !== 0) throw new PhaseError(`${output}\nBuilding the packages failed.`);
  for (const task of tasks) writeStamp(stampFile(task), stamp);
}

/** A platform's package holds one compiled file and no TypeScript. */
function isBuilt(path) {
  return JSON.parse(readFileSync(join(root, path, 'package.json'), 'utf8')).scripts?.['build:js'] !== undefined;
}

function stampFile(task) {
  return join(cacheDir, `built-${task.replace(':', '-')}`);
}
