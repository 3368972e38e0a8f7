// `npm run release`: the versions that the changesets ask for, a build, and every public package in the registry.
//   npm run release -- --dry-run       packs and publishes as a rehearsal: versions stay, nothing is sent
//   npm run release -- --provenance    says where the packages were built; in a workflow that may ask for an identity (id-token: write)
//   npm run release -- --registry URL  elsewhere than npm is configured for
import { mkdirSync, readdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { isNativeBuilt } from '../build-native.mjs';
import { CUDA_PACKAGES, NATIVE_PACKAGES, prepare } from '../phases/prepare.mjs';
import { PhaseError, root, run, runTool, say } from '../process.mjs';
import { packPackage, publicPackages, publishOrder, publishPackages } from '../publishing.mjs';

const FOLDER = join(root, 'build', 'release');
const EVERYTHING = { native: 'required', build: 'js+types', cuda: 'every architecture' };

export async function release(args) {
  const { dryRun, provenance, registry } = optionsOf(args);
  if (provenance) expectRepository();
  if (!dryRun) await expectClean();
  await prepare(EVERYTHING);
  expectAddons();
  if (!dryRun && hasChangesets()) {
    await must('changeset version', runTool('@changesets/cli/bin.js', ['version']));
    await must(
      'writing the lockfile',
      runTool('pnpm/bin/pnpm.cjs', ['install', '--lockfile-only', '--ignore-scripts']),
    );
    await prepare(EVERYTHING); // the version is in what is built
  }
  rmSync(FOLDER, { recursive: true, force: true });
  mkdirSync(FOLDER, { recursive: true });
  const packed = [];
  for (const entry of publishOrder(publicPackages())) {
    packed.push({ manifest: entry.manifest, tarball: await packPackage(entry, FOLDER) });
  }
  try {
    await publishPackages(packed, { dryRun, provenance, registry, say });
  } catch (error) {
    throw new PhaseError(`${error.message}\nWhat is published stays; npm run release goes on with the rest.`);
  }
  if (!dryRun) say(`Commit the versions and changelogs, and tag them v${packed.at(-1).manifest.version}.`);
}

/** Before anything is changed: packing the platform packages would fail. */
function expectAddons() {
  const missing = [...NATIVE_PACKAGES, ...CUDA_PACKAGES].filter((path) => !isNativeBuilt(path));
  if (missing.length > 0)
    throw new PhaseError(
      `Expected compiled addons in ${missing.join(' and ')}: it takes cmake, g++ and nvcc 13, and CUDAARCHS unset`,
    );
}

function optionsOf(args) {
  try {
    const { values } = parseArgs({
      args,
      options: {
        'dry-run': { type: 'boolean', default: false },
        provenance: { type: 'boolean', default: false },
        registry: { type: 'string' },
      },
    });
    return { dryRun: values['dry-run'], provenance: values.provenance, registry: values.registry };
  } catch (error) {
    throw new PhaseError(error.message);
  }
}

/** The registry holds the one against the other. */
function expectRepository() {
  const without = publicPackages().filter(({ manifest }) => !manifest.repository);
  if (without.length === 0) return;
  const paths = without.map(({ path }) => join(path, 'package.json'));
  throw new PhaseError(`Expected a repository for --provenance, got none in ${paths.join(', ')}`);
}

/** What is published must be what is committed; the versions that a release which broke off has written already may be there. */
async function expectClean() {
  const { status, output } = await run('git', ['status', '--porcelain']);
  if (status !== 0) throw new PhaseError(`A release is made from a checkout.\n${output}`);
  const versions = /(^|\/)(package\.json|CHANGELOG\.md|pnpm-lock\.yaml)$|^\.changeset\/[^/]+\.md$/;
  const others = output
    .split('\n')
    .map((line) => line.slice(3))
    .filter((path) => path !== '' && !versions.test(path));
  if (others.length > 0)
    throw new PhaseError(`Expected everything to be committed, got changes in ${others.join(', ')}`);
}

function hasChangesets() {
  return readdirSync(join(root, '.changeset')).some((name) => name.endsWith('.md') && name !== 'README.md');
}

async function must(what, running) {
  const { status, output } = await running;
  if (status !== 0) throw new PhaseError(`${output}\n${what} failed.`);
}
