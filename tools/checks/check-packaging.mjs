// Packs every public library package as `npm publish` would and fails on what a user's bundler or compiler would trip over.
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { root, runTool } from '../process.mjs';
import { workspacePackages } from '../stamp.mjs';

const folder = mkdtempSync(join(tmpdir(), 'int-flash-pack-'));
try {
  for (const path of workspacePackages()) {
    const manifest = JSON.parse(readFileSync(join(root, path, 'package.json'), 'utf8'));
    if (manifest.private) continue;
    await expectSuccess(path, 'pack', 'pnpm/bin/pnpm.cjs', ['--dir', path, 'pack', '--pack-destination', folder]);
    const tarball = join(folder, tarballName(manifest));
    await expectSuccess(path, 'publint', 'publint/src/cli.js', [tarball, '--strict']);
    // A command has no front door to import.
    if (manifest.exports)
      await expectSuccess(path, 'attw', '@arethetypeswrong/cli/dist/index.js', [tarball, '--no-emoji']);
  }
} finally {
  rmSync(folder, { recursive: true, force: true });
}

function tarballName({ name, version }) {
  const expected = `${name.replace('@', '').replace('/', '-')}-${version}.tgz`;
  if (!readdirSync(folder).includes(expected)) throw new Error(`Expected pnpm pack to write ${expected}`);
  return expected;
}

async function expectSuccess(path, what, entry, args) {
  const { status, output } = await runTool(entry, args);
  if (status === 0) return;
  console.log(`${path}: ${what} failed\n${output}`);
  process.exitCode = 1;
}
