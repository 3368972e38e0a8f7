// What a compiled addon asks of the system it is loaded on, read from the file itself.
import { spawnSync } from 'node:child_process';
import { basename } from 'node:path';

/** The newest glibc that an addon may need: what Node 20 and 22 need themselves. native/glibc_floor.cc of each package sees to it. */
const GLIBC_FLOOR = '2.28';
const LIBRARIES = new Set(['libc.so.6', 'libm.so.6', 'libpthread.so.0', 'ld-linux-x86-64.so.2']);

/**
 * @param {string} file an addon for Linux
 * @returns {{ glibc: string, problems: string[] }} the glibc that it needs, and what it needs that it should not
 */
export function addonNeeds(file) {
  const versions = objdump('-T', file).match(/GLIBC_[\d.]+/g) ?? [];
  const glibc = versions
    .map((version) => version.slice('GLIBC_'.length))
    .sort(byVersion)
    .at(-1);
  const problems = [];
  if (glibc === undefined) problems.push(`Expected ${basename(file)} to need a glibc, got none`);
  else if (byVersion(glibc, GLIBC_FLOOR) > 0)
    problems.push(`Expected ${basename(file)} to need glibc ${GLIBC_FLOOR} at most, got ${glibc}`);
  const libraries = [...objdump('-p', file).matchAll(/NEEDED\s+(\S+)/g)].map(([, library]) => library);
  const foreign = libraries.filter((library) => !LIBRARIES.has(library));
  if (foreign.length > 0)
    problems.push(`Expected ${basename(file)} to need the C library alone, got ${foreign.join(', ')}`);
  return { glibc, problems };
}

function objdump(flag, file) {
  const { status, stdout, stderr, error } = spawnSync('objdump', [flag, file], {
    encoding: 'utf8',
    maxBuffer: 2 ** 26,
  });
  if (status !== 0) throw new Error(`objdump failed: ${error?.message ?? stderr}`);
  return stdout;
}

function byVersion(a, b) {
  const [left, right] = [a, b].map((version) => version.split('.').map(Number));
  return left[0] - right[0] || left[1] - right[1] || (left[2] ?? 0) - (right[2] ?? 0);
}
