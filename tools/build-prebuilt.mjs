#!/usr/bin/env node
// Puts a compiled addon into this platform's package of it, ready to pack:  node tools/build-prebuilt.mjs kernels-cpu|kernels-cuda
// The addon is the very file that the tests load (build/Release), stripped; CUDA's compiled for every architecture, which takes minutes. What it
// needs of the system is read from the file itself.
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { copyFileSync, existsSync, readFileSync, realpathSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { buildNative, isNativeBuilt } from './build-native.mjs';
import { writeNotices } from './bundled-licences.mjs';
import { root, say } from './process.mjs';

/** The newest glibc that an addon may need: 2.28 is what Node 20 and 22 need themselves (kernels-cpu's native/glibc_floor.cc), 2.36 what Debian 12 has. */
const GLIBC_FLOORS = { 'kernels-cpu': '2.28', 'kernels-cuda': '2.36' };
const LIBRARIES = new Set(['libc.so.6', 'libm.so.6', 'libpthread.so.0', 'ld-linux-x86-64.so.2']);

const [name] = process.argv.slice(2);
const glibcFloor = GLIBC_FLOORS[name];
if (!glibcFloor) throw new Error(`Expected one of ${Object.keys(GLIBC_FLOORS).join(', ')}, got ${name ?? 'nothing'}`);
const folder = join(root, 'packages', `${name}-${process.platform}-${process.arch}`);
if (!existsSync(folder)) throw new Error(`There is no package for ${process.platform} on ${process.arch} yet`);
const { state, message, log } = await buildNative(`packages/${name}`);
if (state !== 'fresh' && state !== 'built') throw new Error(log ?? message);
if (!isNativeBuilt(`packages/${name}`)) throw new Error(`Expected ${name} for every architecture: unset CUDAARCHS`);

const addon = `${name.replace('kernels-', 'int_flash_')}.node`;
const target = join(folder, addon);
copyFileSync(join(root, 'packages', name, 'build/Release', addon), target);
output('strip', ['--strip-unneeded', target]);

// Node-API's C++ headers are in the addon, in so far as a header can be.
writeNotices(folder, [realpathSync(join(root, 'packages', name, 'node_modules/node-addon-api/napi.h'))]);

const needs = output('objdump', ['-T', target]).match(/GLIBC_[\d.]+/g) ?? [];
const floor = needs
  .map((version) => version.slice('GLIBC_'.length))
  .sort(byVersion)
  .at(-1);
if (byVersion(floor, glibcFloor) > 0)
  throw new Error(`Expected ${addon} to need glibc ${glibcFloor} at most, got ${floor}`);
const libraries = [...output('objdump', ['-p', target]).matchAll(/NEEDED\s+(\S+)/g)].map(([, library]) => library);
const foreign = libraries.filter((library) => !LIBRARIES.has(library));
if (foreign.length > 0) throw new Error(`Expected ${addon} to need the C library alone, got ${foreign.join(', ')}`);

const sha256 = createHash('sha256').update(readFileSync(target)).digest('hex');
say(`${addon}: ${statSync(target).size} bytes, needs glibc ${floor}, sha256 ${sha256}`);

function output(command, args) {
  const { status, stdout, stderr, error } = spawnSync(command, args, { encoding: 'utf8', maxBuffer: 2 ** 26 });
  if (status !== 0) throw new Error(`${command} failed: ${error?.message ?? stderr}`);
  return stdout;
}

function byVersion(a, b) {
  const [left, right] = [a, b].map((version) => version.split('.').map(Number));
  return left[0] - right[0] || left[1] - right[1] || (left[2] ?? 0) - (right[2] ?? 0);
}
