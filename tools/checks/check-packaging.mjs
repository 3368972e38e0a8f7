// Packs every public package as `npm publish` would, and fails on what a user would trip over: a file too many or too few, an entry that
// resolves to nothing, types that say something else than the code, a script that runs at installation, an installation that does not
// work, a dependency without a reason.
//   node tools/checks/check-packaging.mjs            the checks
//   node tools/checks/check-packaging.mjs --update   writes the lists of files anew
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { availableParallelism, tmpdir } from 'node:os';
import { join } from 'node:path';
import { addonNeeds } from '../addon-needs.mjs';
import { addonsIn, isNativeBuilt } from '../build-native.mjs';
import { CUDA_PACKAGES, NATIVE_PACKAGES } from '../phases/prepare.mjs';
import { root, run, runTool } from '../process.mjs';
import { packPackage, publicPackages, publishOrder, publishPackages } from '../publishing.mjs';
import { checkInstall } from './check-install.mjs';

const LISTS = join(root, 'tools/checks/packed-files.json');
const MAX_BYTES = 50e6;
const INSTALL_SCRIPTS = ['preinstall', 'install', 'postinstall', 'prepare'];

const problems = [];
const folder = mkdtempSync(join(tmpdir(), 'int-flash-pack-'));
try {
  const packages = publicPackages().filter(({ manifest }) => fitsHere(manifest));
  const packed = await atOnce(packages, pack);
  if (process.argv.includes('--update')) await writeLists(packed);
  checkAddons();
  compareLists(packed);
  await atOnce(packed, inspect);
  if (problems.length === 0) problems.push(...(await checkInstall(packed, folder)));
  // A rehearsal, at a port where nobody listens: npm looks at each tarball and sends nothing.
  const nobody = { registry: 'http://127.0.0.1:9/', env: { npm_config_fetch_retries: '0' } };
  await publishPackages(publishOrder(packed), { dryRun: true, ...nobody }).catch(({ message }) =>
    problems.push(message),
  );
} finally {
  rmSync(folder, { recursive: true, force: true });
}
for (const problem of problems) console.log(problem);
process.exitCode = problems.length > 0 ? 1 : 0;

/** A platform's package can only be packed on that platform, and with an addon compiled for all that it is for. */
function fitsHere({ name, os, cpu, libc }) {
  if (!os) return true;
  const { glibcVersionRuntime } = process.report.getReport().header;
  const fits =
    os.includes(process.platform) && cpu.includes(process.arch) && (!libc || glibcVersionRuntime !== undefined);
  const library = name.match(/^@int-flash\/(kernels-[a-z]+)-/)?.[1];
  const isCompiled = isNativeBuilt(`packages/${library}`);
  if (!fits || !isCompiled)
    console.log(
      `warning: ${name} is not packed here: ${fits ? 'its addon was not compiled for all it is for' : 'another system'}`,
    );
  return fits && isCompiled;
}

/** Of the addons that are compiled here, for whatever architectures: where they would load. */
function checkAddons() {
  if (process.platform !== 'linux' || process.arch !== 'x64') return;
  const addons = [...NATIVE_PACKAGES, ...CUDA_PACKAGES].flatMap((path) => addonsIn(join(root, path)));
  for (const addon of addons) problems.push(...addonNeeds(addon).problems);
}

async function pack({ path, manifest }) {
  const { name } = manifest;
  const tarball = await packPackage({ path, manifest }, folder);
  const listed = await run('tar', ['-tzf', tarball]);
  const files = listed.output
    .trim()
    .split('\n')
    .map((file) => listName(file.replace(/^package\//, '')));
  const packedManifest = JSON.parse((await run('tar', ['-xzOf', tarball, 'package/package.json'])).output);
  return { path, name, manifest: packedManifest, tarball, files: [...new Set(files)].sort() };
}

/** `chunk-LJMMA3QV.js` is `chunk-*.js`: the digest changes with every edit. Native sources are named by their kind. */
function listName(file) {
  return file
    .replace(/^(native|kernels)\/.+\.(cc|h|cu|cuh)$/, '$1/**/*.$2')
    .replace(/-[\w-]{8}(\.(js|css|svg)(\.map)?)$/, '-*$1');
}

async function writeLists(packed) {
  writeFileSync(LISTS, JSON.stringify(Object.fromEntries(packed.map(({ name, files }) => [name, files])), null, 2));
  await runTool('@biomejs/biome/bin/biome', ['format', '--write', LISTS]);
}

function compareLists(packed) {
  const lists = JSON.parse(readFileSync(LISTS, 'utf8'));
  for (const { name, files } of packed) {
    const expected = lists[name] ?? [];
    const more = files.filter((file) => !expected.includes(file));
    const fewer = expected.filter((file) => !files.includes(file));
    if (more.length + fewer.length > 0) {
      problems.push(
        `${name}: the tarball has ${more.join(', ') || 'nothing'} too many and lacks ${fewer.join(', ') || 'nothing'}; if that is meant, run check-packaging.mjs --update`,
      );
    }
  }
}

async function inspect({ name, manifest, tarball }) {
  const { size } = statSync(tarball);
  if (size > MAX_BYTES) problems.push(`${name}: the tarball has ${size} bytes, more than ${MAX_BYTES}`);
  for (const script of INSTALL_SCRIPTS) {
    if (manifest.scripts?.[script]) problems.push(`${name}: ${script} would run on users' machines`);
  }
  const tools = [['publint', 'publint/src/cli.js', ['--strict']]];
  // A command has no front door to import, and an addon no types.
  if (manifest.exports) tools.push(['attw', '@arethetypeswrong/cli/dist/index.js', ['--no-emoji']]);
  for (const [tool, entry, args] of tools) {
    const { status, output } = await runTool(entry, [tarball, ...args]);
    if (status !== 0) problems.push(`${name}: ${tool} failed\n${output}`);
  }
}

/** As many at a time as there are cores. */
async function atOnce(items, work) {
  const results = new Array(items.length);
  let next = 0;
  const worker = async () => {
    while (next < items.length) {
      const index = next++;
      results[index] = await work(items[index]);
    }
  };
  await Promise.all(Array.from({ length: availableParallelism() }, worker));
  return results;
}
