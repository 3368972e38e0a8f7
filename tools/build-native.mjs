#!/usr/bin/env node
// Builds a package's native addon with cmake-js:  node tools/build-native.mjs packages/kernels-cpu
// The package holds CMakeLists.txt, native/** and, in package.json, `"binary": {"napi_versions": [8]}`: with that, cmake-js
// takes the headers from node-api-headers instead of downloading Node's. CMake is told CMAKE_JS_INC (node-api-headers and
// node-addon-api), CMAKE_JS_LIB and CMAKE_JS_SRC. The result is build/Release/*.node.
// A package with kernels/** is CUDA's: it needs nvcc as well, and takes minutes for all architectures; see `cuda`.
// Not a lifecycle script: installing runs nobody's code, and a machine without a compiler still has the portable backend.
import { spawnSync } from 'node:child_process';
import { existsSync, readdirSync, rmSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { join, relative, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { root, runTool, say } from './process.mjs';
import { contentHash, readStamp, writeStamp } from './stamp.mjs';

const QUICK_ARCHITECTURES = ['80-real', '90a-real'];

/**
 * For which GPUs CUDA kernels are compiled: `quick` for two architectures, which is enough to see that they compile; `this machine` for its own GPU.
 * @typedef {'every architecture' | 'quick' | 'this machine'} CudaTargets
 */

/**
 * @param {string} packageDir  relative to the repository root
 * @param {{ retryFailed?: boolean, cuda?: CudaTargets }} [options] retryFailed: compile again although these very sources failed before
 * @returns {Promise<{ state: 'fresh' | 'built' | 'skipped' | 'failed', message?: string, log?: string }>}
 *   `message` is one line for the person at the terminal; `log` is the compiler's output
 */
export async function buildNative(packageDir, { retryFailed = true, cuda: targets = 'every architecture' } = {}) {
  const directory = resolve(root, packageDir);
  const name = relative(root, directory);
  if (!['CMakeLists.txt', 'native'].every((part) => existsSync(join(directory, part)))) {
    return { state: 'skipped', message: `${name} has no native sources yet: using the portable TypeScript backend.` };
  }

  const cuda = existsSync(join(directory, 'kernels'));
  if (cuda && !runs('nvcc')) return { state: 'skipped', message: `No nvcc here: ${name} is not compiled.` };
  const wanted = cuda ? architecturesFor(targets) : [];
  if (!wanted) return { state: 'skipped', message: `No NVIDIA GPU here: ${name} is not compiled.` };
  const architectures = wanted.join(';');

  const stamp = stampOf(directory, architectures);
  const last = readStamp(stampFile(directory));
  const serving = [wanted];
  if (targets !== 'every architecture') serving.push([]); // all serve where fewer are enough
  if (targets === 'this machine' && wanted.every((one) => QUICK_ARCHITECTURES.includes(one)))
    serving.push(QUICK_ARCHITECTURES);
  const built = serving.some((some) => last === stampOf(directory, some.join(';')));
  if (built && addonsIn(directory).length > 0) return { state: 'fresh' };
  for (const addon of addonsIn(directory)) rmSync(addon); // made from other sources: must not be loaded if this build fails
  const instead = cuda ? 'attention runs on the CPU' : 'using the portable TypeScript backend';
  const failedMessage = `${name}: the native sources did not compile here; ${instead}. \`npm run build\` shows the errors.`;
  if (last === `failed ${stamp}` && !retryFailed) return { state: 'failed', message: failedMessage };

  const missing = missingTools();
  if (missing.length > 0) {
    const message = `No ${missing.join(', no ')} here: using the portable TypeScript backend, which is slower. For the native one: ${installHint()}`;
    return { state: 'skipped', message };
  }

  say(`compiling the native addon${cuda ? ' for CUDA, some minutes' : ''}…`);
  const where = ['--directory', directory, '--config', 'Release'];
  const options = architectures ? { env: { CUDAARCHS: architectures } } : {};
  const cmake = (...args) => runTool('cmake-js/bin/cmake-js', [...args, ...where], options);
  // A folder that was configured once is not configured again by compiling, whatever architectures are asked for now.
  const configured = cuda ? await cmake('configure') : { status: 0 };
  const { status, output } =
    configured.status === 0 ? await cmake('compile', '--parallel', String(availableParallelism())) : configured;
  const succeeded = status === 0 && addonsIn(directory).length > 0;
  writeStamp(stampFile(directory), succeeded ? stamp : `failed ${stamp}`);
  return succeeded ? { state: 'built' } : { state: 'failed', message: failedMessage, log: output };
}

/**
 * As CMake names them; none stands for all that CMakeLists.txt lists. `undefined`: there is no GPU to compile for.
 * @param {CudaTargets} targets
 */
function architecturesFor(targets) {
  if (process.env.CUDAARCHS !== undefined) return process.env.CUDAARCHS.split(';').filter(Boolean);
  if (targets === 'every architecture') return [];
  return targets === 'quick' ? QUICK_ARCHITECTURES : ownArchitectures();
}

/** From compute capability 9.0 on kernels use what one generation alone has: `90a`. */
function ownArchitectures() {
  const query = ['--query-gpu=compute_cap', '--format=csv,noheader'];
  const { status, stdout } = spawnSync('nvidia-smi', query, { encoding: 'utf8' });
  const found = status === 0 ? [...stdout.matchAll(/^(\d+)\.(\d)$/gm)] : [];
  const names = found.map(([, major, minor]) => `${major}${minor}${Number(major) >= 9 ? 'a' : ''}-real`);
  return names.length > 0 ? [...new Set(names)].sort() : undefined;
}

/** Whether the addon of a package is there, compiled from the sources as they are, for CUDA for every architecture. */
export function isNativeBuilt(packageDir) {
  const directory = resolve(root, packageDir);
  return readStamp(stampFile(directory)) === stampOf(directory, '') && addonsIn(directory).length > 0;
}

function stampFile(directory) {
  return join(directory, 'build', 'native-stamp');
}

/** Of the sources and of the CUDA architectures they are compiled for: '' is all of them, and what a package without CUDA has. */
function stampOf(directory, architectures) {
  const sources = ['CMakeLists.txt', 'native', 'kernels'].map((part) => join(directory, part));
  return contentHash(sources, architectures);
}

/** The addons that were compiled in a package's folder. */
export function addonsIn(directory) {
  const release = join(directory, 'build', 'Release');
  if (!existsSync(release)) return [];
  return readdirSync(release)
    .filter((file) => file.endsWith('.node'))
    .map((file) => join(release, file));
}

/** What a build needs and this machine lacks, in words. On Windows cmake-js itself finds Visual Studio. */
function missingTools() {
  const missing = [];
  if (!runs('cmake')) missing.push('cmake');
  if (process.platform === 'win32') return missing;
  const compiler = [process.env.CXX, 'c++', 'g++', 'clang++'].filter(Boolean).find(runs);
  if (!compiler || !compilesCxx17(compiler)) missing.push('C++17 compiler');
  if (!runs('make') && !runs('ninja')) missing.push('make');
  return missing;
}

function runs(tool) {
  return spawnSync(tool, ['--version'], { stdio: 'ignore' }).status === 0;
}

function compilesCxx17(compiler) {
  const input = '#include <string_view>\nint main() { if constexpr (sizeof(std::string_view) > 0) return 0; }\n';
  return (
    spawnSync(compiler, ['-std=c++17', '-fsyntax-only', '-x', 'c++', '-'], {
      input,
      stdio: ['pipe', 'ignore', 'ignore'],
    }).status === 0
  );
}

function installHint() {
  if (process.platform === 'darwin') return '`xcode-select --install && brew install cmake`';
  if (process.platform === 'win32') return 'install Visual Studio Build Tools and CMake';
  const commands = {
    'apt-get': 'apt-get install g++ cmake make',
    dnf: 'dnf install gcc-c++ cmake make',
    pacman: 'pacman -S gcc cmake make',
    apk: 'apk add g++ cmake make',
  };
  return `\`${commands[Object.keys(commands).find(runs) ?? 'apt-get']}\``;
}

if (process.argv[1] && resolve(process.argv[1]) === fileURLToPath(import.meta.url)) {
  const packageDir = process.argv[2];
  if (!packageDir) {
    say('Expected a package directory, as in: node tools/build-native.mjs packages/kernels-cpu');
    process.exitCode = 2;
  } else {
    const { state, message, log } = await buildNative(packageDir);
    if (log) process.stderr.write(log);
    if (message) say(message);
    process.exitCode = state === 'failed' ? 1 : 0;
  }
}
