import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, it, vi } from 'vitest';

const { buildNative } = await import(new URL('../../../tools/build-native.mjs', import.meta.url).href);
const isThere = (tool: string) => spawnSync(tool, ['--version'], { stdio: 'ignore' }).status === 0;

// Its "addon" says which architectures it was configured for.
const CMAKE = `cmake_minimum_required(VERSION 3.24)
project(probe LANGUAGES NONE)
file(WRITE \${CMAKE_BINARY_DIR}/Release/probe.node "[$ENV{CUDAARCHS}]")
add_custom_target(probe ALL)
`;

it.skipIf(!isThere('nvcc') || !isThere('cmake'))(
  'compiles for the architectures asked for, whatever the folder was configured for before',
  async () => {
    vi.stubEnv('CUDAARCHS', undefined);
    const folder = mkdtempSync(join(tmpdir(), 'int-flash-native-'));
    try {
      for (const name of ['native', 'kernels']) mkdirSync(join(folder, name));
      writeFileSync(join(folder, 'CMakeLists.txt'), CMAKE);
      writeFileSync(join(folder, 'package.json'), JSON.stringify({ name: 'probe', binary: { napi_versions: [8] } }));
      const configuredFor = () => readFileSync(join(folder, 'build/Release/probe.node'), 'utf8');
      expect((await buildNative(folder, { quick: true })).state).toBe('built');
      expect(configuredFor()).toBe('[80-real;90a-real]');
      expect((await buildNative(folder)).state).toBe('built');
      expect(configuredFor()).toBe('[]');
      expect((await buildNative(folder, { quick: true })).state).toBe('fresh'); // every architecture serves where two are enough
    } finally {
      rmSync(folder, { recursive: true });
      vi.unstubAllEnvs();
    }
  },
  120_000,
);
