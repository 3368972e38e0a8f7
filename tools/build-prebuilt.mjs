#!/usr/bin/env node
// Puts a compiled addon into this platform's package of it, ready to pack:  node tools/build-prebuilt.mjs kernels-cpu|kernels-cuda
// The addon is the very file that the tests load (build/Release), stripped; CUDA's compiled for every architecture, which takes minutes. What it
// needs of the system is read from the file itself.
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { copyFileSync, existsSync, readFileSync, realpathSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { addonNeeds } from './addon-needs.mjs';
import { buildNative, isNativeBuilt } from './build-native.mjs';
import { writeNotices } from './bundled-licences.mjs';
import { root, say } from './process.mjs';

const PREBUILT = ['kernels-cpu', 'kernels-cuda'];

const [name] = process.argv.slice(2);
if (!PREBUILT.includes(name)) throw new Error(`Expected one of ${PREBUILT.join(', ')}, got ${name ?? 'nothing'}`);
const folder = join(root, 'packages', `${name}-${process.platform}-${process.arch}`);
if (!existsSync(folder)) throw new Error(`There is no package for ${process.platform} on ${process.arch} yet`);
const { state, message, log } = await buildNative(`packages/${name}`);
if (state !== 'fresh' && state !== 'built') throw new Error(log ?? message);
if (!isNativeBuilt(`packages/${name}`)) throw new Error(`Expected ${name} for every architecture: unset CUDAARCHS`);

const addon = `${name.replace('kernels-', 'int_flash_')}.node`;
const target = join(folder, addon);
copyFileSync(join(root, 'packages', name, 'build/Release', addon), target);
const stripped = spawnSync('strip', ['--strip-unneeded', target], { encoding: 'utf8' });
if (stripped.status !== 0) throw new Error(`strip failed: ${stripped.error?.message ?? stripped.stderr}`);

// Node-API's C++ headers are in the addon, in so far as a header can be.
writeNotices(folder, [realpathSync(join(root, 'packages', name, 'node_modules/node-addon-api/napi.h'))]);

const { glibc, problems } = addonNeeds(target);
if (problems.length > 0) throw new Error(problems.join('; '));

const sha256 = createHash('sha256').update(readFileSync(target)).digest('hex');
say(`${addon}: ${statSync(target).size} bytes, needs glibc ${glibc}, sha256 ${sha256}`);
