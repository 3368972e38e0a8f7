import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

const packages = new URL('../../', import.meta.url);
const NAMES = ['ops', 'quant', 'kernels-cpu', 'kernels-cuda'];
/** Of the platform's packages, in whose place stands what tells that it was found. */
const PLATFORM = {
  'kernels-cpu-linux-x64': `{ supportedIsas: () => ['found'] }`,
  'kernels-cuda-linux-x64': `{ probe: () => ({ driverVersion: 0, runtimeVersion: 13000, architectures: 'found', devices: [] }) }`,
};
const PROGRAM = `
  import { cpuStatus } from '@int-flash/kernels-cpu';
  import { cudaStatus } from '@int-flash/kernels-cuda';
  const [cpu, cuda] = [cpuStatus(), cudaStatus()];
  console.log(JSON.stringify([cpu.isa ?? cpu.reason, cuda.reason]));`;

interface Built {
  readonly metafile: { readonly inputs: Readonly<Record<string, unknown>> };
  readonly warnings: readonly { readonly id: string }[];
}
type BuildSync = (options: object) => Built;
// No dependency of ours: tsup's, which builds the packages.
const { buildSync } = createRequire(createRequire(import.meta.url).resolve('tsup'))('esbuild') as {
  buildSync: BuildSync;
};

const folder = mkdtempSync(join(tmpdir(), 'int-flash-bundled-'));
afterAll(() => rmSync(folder, { recursive: true }));
beforeAll(() => {
  for (const name of NAMES) {
    const built = existsSync(new URL(`${name}/dist/index.js`, packages));
    expect(built, `packages/${name} is built (npm run build)`).toBe(true);
  }
});

/** A bundle in a folder of its own, beside which the platform's packages lie, or do not. */
function bundle(format: 'esm' | 'cjs', withPlatform: boolean) {
  const home = join(folder, `${format}-${withPlatform}`);
  for (const [name, addon] of Object.entries(withPlatform ? PLATFORM : {})) {
    const place = join(home, 'node_modules', '@int-flash', name);
    mkdirSync(place, { recursive: true });
    writeFileSync(join(place, 'index.js'), `module.exports = ${addon};`);
  }
  const outfile = join(home, 'dist', format === 'esm' ? 'program.mjs' : 'program.cjs');
  const resolveDir = fileURLToPath(new URL('attention/', packages));
  const built = buildSync({
    stdin: { contents: PROGRAM, resolveDir },
    bundle: true,
    platform: 'node',
    format,
    outfile,
    metafile: true,
    logLevel: 'silent',
  });
  return { outfile, ...built };
}

function run(file: string) {
  const environment = { ...process.env, NODE_OPTIONS: '', INTFLASH_ADDON_PATH: '', INTFLASH_CUDA_ADDON_PATH: '' };
  return spawnSync(process.execPath, [file], { cwd: folder, encoding: 'utf8', env: environment });
}

describe.skipIf(process.platform !== 'linux' || process.arch !== 'x64').each(['esm', 'cjs'] as const)(
  'a program bundled as %s',
  (format) => {
    it('finds the platform’s packages in the node_modules beside it, and holds nothing of them', () => {
      const { outfile, metafile } = bundle(format, true);
      const { stdout, stderr } = run(outfile);
      expect(stderr).toBe('');
      expect(JSON.parse(stdout)).toEqual(['found', 'driver-missing']);
      expect(Object.keys(metafile.inputs).filter((path) => /linux-x64|\.node$/.test(path))).toEqual([]);
    });

    it('starts without them too, and says what is missing', () => {
      const { stdout, stderr } = run(bundle(format, false).outfile);
      expect(stderr).toBe('');
      expect(JSON.parse(stdout)).toEqual(['addon-not-installed', 'addon-not-installed']);
    });
  },
);
