import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { PhaseError, root, run, runTool, say } from '../process.mjs';
import { cacheDir, contentHash, readStamp, workspacePackages, writeStamp } from '../stamp.mjs';

const stampFile = join(cacheDir, 'installed');

/** Installs what the lockfile says, with the pinned pnpm, running no package's install script. */
export async function installDependencies() {
  const manifests = ['.', ...workspacePackages()].map((path) => join(root, path, 'package.json'));
  const stamp = contentHash([join(root, 'pnpm-lock.yaml'), join(root, 'pnpm-workspace.yaml'), ...manifests]);
  if (existsSync(join(root, 'node_modules', '.modules.yaml')) && readStamp(stampFile) === stamp) return;

  say('installing dependencies…');
  const pinned = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')).packageManager; // pnpm@x.y.z
  const args = ['install', '--frozen-lockfile', '--ignore-scripts'];
  const options = { env: { CI: 'true' } }; // CI: never prompts
  const { status, output } =
    installedPnpm() === pinned
      ? await runTool('pnpm/bin/pnpm.cjs', args, options)
      : await run('npx', ['--yes', pinned, ...args], { ...options, shell: process.platform === 'win32' });
  if (status !== 0) {
    const hint = output.includes('ERR_PNPM_OUTDATED_LOCKFILE')
      ? `A package.json changed without its lockfile: run \`npx ${pinned} install --ignore-scripts\` and commit pnpm-lock.yaml.`
      : `Installing dependencies failed (exit ${status}). The npm registry must be reachable the first time.`;
    throw new PhaseError(`${output}\n${hint}`);
  }
  writeStamp(stampFile, stamp);
}

function installedPnpm() {
  const manifest = join(root, 'node_modules', 'pnpm', 'package.json');
  return existsSync(manifest) ? `pnpm@${JSON.parse(readFileSync(manifest, 'utf8')).version}` : undefined;
}
