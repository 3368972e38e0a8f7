#!/usr/bin/env node
// Puts the compiled addon into this platform's package, ready to pack:  node tools/build-prebuilt.mjs
// The addon is the very file that the tests load (build/Release), stripped. What it needs of the system is read from the file itself.
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { copyFileSync, existsSync, readFileSync, realpathSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { buildNative } from './build-native.mjs';
import { writeNotices } from './bundled-licences.mjs';
import { root, say } from './process.mjs';

/** What Node 20 and 22 need themselves: an addon that asks for no more loads wherever they start. */
const GLIBC_FLOOR = '2.28';
const LIBRARIES = new Set(['libc.so.6', 'libm.so.6', 'libpthread.so.0', 'ld-linux-x86-64.so.2']);
const ADDON = 'int_flash_cpu.node';

const folder = join(root, 'packages', `kernels-cpu-${process.platform}-${process.arch}`);
if (!existsSync(folder)) throw new Error(`There is no package for ${process.platform} on ${process.arch} yet`);
const { state, message, log } = await buildNative('packages/kernels-cpu');
if (state !== 'fresh' && state !== 'built') throw new Error(log ?? message);

const target = join(folder, ADDON);
copyFileSync(join(root, 'packages/kernels-cpu/build/Release', ADDON), target);
output('strip', ['--strip-unneeded', target]);

// Node-API's C++ headers are in the addon, in so far as a header can be.
writeNotices(folder, [realpathSync(join(root, 'packages/kernels-cpu/node_modules/node-addon-api/napi.h'))]);

const needs = output('objdump', ['-T', target]).match(/GLIBC_[\d.]+/g) ?? [];
const floor = needs
  .map((name) => name.slice('GLIBC_'.length))
  .sort(byVersion)
  .at(-1);
if (byVersion(floor, GLIBC_FLOOR) > 0) {
  throw new Error(`Expected ${ADDON} to need glibc ${GLIBC_FLOOR} at most, got ${floor}: see native/glibc_floor.cc`);
}
const libraries = [...output('objdump', ['-p', target]).matchAll(/NEEDED\s+(\S+)/g)].map(([, name]) => name);
const foreign = libraries.filter((name) => !LIBRARIES.has(name));
if (foreign.length > 0) throw new Error(`Expected ${ADDON} to need the C library alone, got ${foreign.join(', ')}`);

const sha256 = createHash('sha256').update(readFileSync(target)).digest('hex');
say(`${ADDON}: ${statSync(target).size} bytes, needs glibc ${floor}, sha256 ${sha256}`);

function output(command, args) {
  const { status, stdout, stderr, error } = spawnSync(command, args, { encoding: 'utf8', maxBuffer: 2 ** 26 });
  if (status !== 0) throw new Error(`${command} failed: ${error?.message ?? stderr}`);
  return stdout;
}

function byVersion(a, b) {
  const [left, right] = [a, b].map((version) => version.split('.').map(Number));
  return left[0] - right[0] || left[1] - right[1] || (left[2] ?? 0) - (right[2] ?? 0);
}
