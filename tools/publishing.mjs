// The packages that a release consists of: which, packed how, published in what order.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { root, run, runTool } from './process.mjs';
import { workspacePackages } from './stamp.mjs';

/** @returns {{ path: string, manifest: object }[]} */
export function publicPackages() {
  return workspacePackages()
    .map((path) => ({ path, manifest: JSON.parse(readFileSync(join(root, path, 'package.json'), 'utf8')) }))
    .filter(({ manifest }) => !manifest.private);
}

/** Packs one as it is published. @returns {Promise<string>} the tarball's path */
export async function packPackage({ path, manifest: { name, version } }, folder) {
  const { status, output } = await runTool('pnpm/bin/pnpm.cjs', ['--dir', path, 'pack', '--pack-destination', folder]);
  if (status !== 0) throw new Error(`${path}: pack failed\n${output}`);
  return join(folder, `${name.replace('@', '').replace('/', '-')}-${version}.tgz`);
}

/**
 * None before what it depends on, so that nobody can install half a release; where that leaves a choice, by name.
 *
 * @template {{ manifest: object }} P
 * @param {readonly P[]} packages
 * @returns {P[]}
 */
export function publishOrder(packages) {
  const byName = new Map(packages.map((entry) => [entry.manifest.name, entry]));
  const ordered = new Set();
  const add = (name, above) => {
    const entry = byName.get(name);
    if (!entry || ordered.has(entry)) return;
    if (above.includes(name))
      throw new Error(`Expected packages without a circle, got ${[...above, name].join(' → ')}`);
    const { dependencies, optionalDependencies, peerDependencies } = entry.manifest;
    for (const below of Object.keys({ ...dependencies, ...optionalDependencies, ...peerDependencies }).sort())
      add(below, [...above, name]);
    ordered.add(entry);
  };
  for (const name of [...byName.keys()].sort()) add(name, []);
  return [...ordered];
}

/**
 * Publishes tarballs one after the other. One whose version the registry has already is left out, so a release that broke off can be
 * run again.
 *
 * @param {{ manifest: object, tarball: string }[]} packed in the order to publish
 * @param {{ dryRun?: boolean, provenance?: boolean, registry?: string, say?: (line: string) => void, env?: object }} options
 */
export async function publishPackages(packed, { dryRun, provenance, registry, say = () => {}, env = {} } = {}) {
  const where = registry === undefined ? [] : ['--registry', registry];
  for (const { manifest, tarball } of packed) {
    const version = `${manifest.name}@${manifest.version}`;
    if (!dryRun && (await npm(['view', version, 'version', ...where], env)).output.trim() === manifest.version) {
      say(`${version} is there already`);
      continue;
    }
    const how = [...(dryRun ? ['--dry-run'] : []), ...(provenance ? ['--provenance'] : [])];
    const { status, output } = await npm(
      ['publish', tarball, '--access', 'public', '--ignore-scripts', ...how, ...where],
      env,
    );
    if (status !== 0) throw new Error(`${version} was not published\n${output}`);
    say(`${version}${dryRun ? ' would be published' : ''}`);
  }
}

function npm(args, env) {
  return run('npm', [...args, '--loglevel', 'error'], { env, shell: process.platform === 'win32' });
}
