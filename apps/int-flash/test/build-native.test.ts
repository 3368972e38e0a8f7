import { spawnSync } from 'node:child_process';
import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';

const { buildNative } = await import(new URL('../../../tools/build-native.mjs', import.meta.url).href);
const isThere = (tool: string) => spawnSync(tool, ['--version'], { stdio: 'ignore' }).status === 0;

// Its "addon" says which architectures it was configured for.
const CMAKE = `cmake_minimum_required(VERSION 3.24)
project(probe LANGUAGES NONE)
file(WRITE \${CMAKE_BINARY_DIR}/Release/probe.node "[$ENV{CUDAARCHS}]")
add_custom_target(probe ALL)
`;

describe.skipIf(!isThere('nvcc') || !isThere('cmake'))('buildNative() of a package with CUDA kernels', () => {
  let folder: string;
  beforeEach(() => {
    vi.stubEnv('CUDAARCHS', undefined);
    folder = mkdtempSync(join(tmpdir(), 'int-flash-native-'));
    for (const name of ['native', 'kernels', 'bin']) mkdirSync(join(folder, name));
    writeFileSync(join(folder, 'CMakeLists.txt'), CMAKE);
    writeFileSync(join(folder, 'package.json'), JSON.stringify({ name: 'probe', binary: { napi_versions: [8] } }));
  });
  afterEach(() => {
    rmSync(folder, { recursive: true });
    vi.unstubAllEnvs();
  });
  const configuredFor = () => readFileSync(join(folder, 'build/Release/probe.node'), 'utf8');
  /** An nvidia-smi that says so. */
  const tellOf = (capabilities: string, status = 0) => {
    const tool = join(folder, 'bin', 'nvidia-smi');
    writeFileSync(tool, `#!/bin/sh\nprintf '${capabilities}'\nexit ${status}\n`);
    chmodSync(tool, 0o755);
    vi.stubEnv('PATH', `${join(folder, 'bin')}${delimiter}${process.env.PATH}`);
  };

  it('compiles for the architectures asked for, whatever the folder was configured for before', async () => {
    expect((await buildNative(folder, { cuda: 'quick' })).state).toBe('built');
    expect(configuredFor()).toBe('[80-real;90a-real]');
    expect((await buildNative(folder)).state).toBe('built');
    expect(configuredFor()).toBe('[]');
    expect((await buildNative(folder, { cuda: 'quick' })).state).toBe('fresh'); // every architecture serves where two are enough
    vi.stubEnv('CUDAARCHS', '87-real'); // which "every architecture" has not
    expect((await buildNative(folder)).state).toBe('built');
    expect(configuredFor()).toBe('[87-real]');
  }, 120_000);

  it('compiles for the GPUs that the machine has', async () => {
    tellOf('8.6\\n12.0\\n8.6\\n');
    expect((await buildNative(folder, { cuda: 'this machine' })).state).toBe('built');
    expect(configuredFor()).toBe('[120a-real;86-real]');
    tellOf('9.0\\n');
    expect((await buildNative(folder, { cuda: 'quick' })).state).toBe('built');
    expect((await buildNative(folder, { cuda: 'this machine' })).state).toBe('fresh'); // is one of the two
    tellOf('8.9\\n');
    expect((await buildNative(folder, { cuda: 'this machine' })).state).toBe('built');
    expect(configuredFor()).toBe('[89-real]');
  }, 120_000);

  it.each([
    ['', 9],
    ['No devices were found\\n', 0],
  ])('compiles nothing where no GPU is told of: %j', async (said, status) => {
    tellOf(said, status);
    const told = await buildNative(folder, { cuda: 'this machine' });
    expect(told).toMatchObject({ state: 'skipped', message: expect.stringContaining('No NVIDIA GPU here') });
  });
});
