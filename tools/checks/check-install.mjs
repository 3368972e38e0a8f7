import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { root, run, runNode, runTool } from '../process.mjs';
import { checkDependencies } from './check-dependencies.mjs';

/**
 * Installs the tarballs in a clean folder as a user would, once with npm and once with pnpm, running no scripts; then imports every
 * package as ESM and as CommonJS, checks its types, and lets the command write. What was downloaded before comes from the cache.
 *
 * @param {{ name: string, manifest: object, tarball: string }[]} packed
 * @returns {Promise<string[]>} problems
 */
export async function checkInstall(packed, folder) {
  const results = await Promise.all(
    ['npm', 'pnpm'].map(async (manager) => {
      const home = join(folder, `clean-${manager}`);
      writeProject(home, packed);
      for (const [what, command] of steps(manager, home, packed)) {
        const { status, output } = await command();
        if (status !== 0) return [`installed with ${manager}: ${what} failed\n${output}`];
      }
      return manager === 'npm' ? checkDependencies(home) : [];
    }),
  );
  return results.flat();
}

function writeProject(home, packed) {
  const tarballs = Object.fromEntries(packed.map(({ name, tarball }) => [name, `file:${tarball}`]));
  const libraries = packed.filter(({ manifest }) => manifest.exports).map(({ name }) => name);
  const each = (line) => libraries.map(line).join('\n');
  const used = `export const used: object[] = [${libraries.map((_, i) => `m${i}`).join(', ')}];`;
  const files = {
    // pnpm would look for the packages' own dependencies on each other in the registry.
    'package.json': JSON.stringify({ private: true, dependencies: tarballs, pnpm: { overrides: tarballs } }),
    'imports.mjs': each((name) => `if (Object.keys(await import('${name}')).length === 0) throw new Error('${name}');`),
    'requires.cjs': each((name) => `if (Object.keys(require('${name}')).length === 0) throw new Error('${name}');`),
    'types.mts': `${each((name, i) => `import * as m${i} from '${name}';`)}\n${used}`,
    'types.cts': `${each((name, i) => `import m${i} = require('${name}');`)}\n${used}`,
    // @ai-sdk/provider's types import these and do not bring them.
    'json-schema.d.ts': `declare module 'json-schema' { export type JSONSchema7 = object; export type JSONSchema7Definition = object | boolean; }`,
    'tsconfig.json': JSON.stringify({
      compilerOptions: {
        module: 'nodenext',
        strict: true,
        noEmit: true,
        target: 'es2022',
        lib: ['es2023', 'esnext.disposable'],
        typeRoots: [join(root, 'node_modules/@types')],
        types: ['node'],
      },
      files: ['types.mts', 'types.cts', 'json-schema.d.ts'],
    }),
  };
  mkdirSync(home);
  for (const [name, text] of Object.entries(files)) writeFileSync(join(home, name), text);
}

function steps(manager, home, packed) {
  const here = { cwd: home, env: { INT_FLASH_MODEL: '', INTFLASH_ADDON_PATH: '' } };
  const flags = ['install', '--ignore-scripts', '--prefer-offline'];
  // Without a network the platforms' packages that are not among the tarballs are asked for in vain: not for minutes.
  const retries = ['fetch-retry-mintimeout=1000', 'fetch-retry-maxtimeout=2000']; // as many digits: pnpm compares them as text
  const npmFlags = [...flags, '--no-audit', '--no-fund', ...retries.map((setting) => `--${setting}`)];
  const pnpmFlags = [...flags, '--ignore-workspace', ...retries.map((setting) => `--config.${setting}`)];
  const install = {
    npm: () => run('npm', npmFlags, { ...here, shell: process.platform === 'win32' }),
    pnpm: () => runNode([join(root, 'node_modules/pnpm/bin/pnpm.cjs'), ...pnpmFlags], here),
  };
  const isPrebuilt = packed.some(({ name }) => name.startsWith('@int-flash/kernels-cpu-'));
  const demo = ['demo', '--max-tokens', '4', '--quiet', '--backend', isPrebuilt ? 'cpu' : 'portable'];
  const command = (args) => runNode(['node_modules/int-flash/dist/cli.js', ...args], here);
  return [
    ['the installation', install[manager]],
    ['import', () => runNode(['imports.mjs'], here)],
    ['require', () => runNode(['requires.cjs'], here)],
    ['tsc', () => runTool('typescript/bin/tsc', ['--project', home])],
    ['the command', () => command(demo)],
    // Once is enough: what the two installed is the same. A report needs more of the package than an answer does.
    ...(manager === 'npm' ? [['the report', () => writeReport(command, join(home, 'report'))]] : []),
  ];
}

/** Fails too where something besides the report is said. */
async function writeReport(command, folder) {
  const result = await command(['reproduce', 'kv-cache', '--quick', '--json', '--out', folder]);
  const isSilent = result.status === 0 && result.output === readFileSync(join(folder, 'report.json'), 'utf8');
  return isSilent && existsSync(join(folder, 'report.html')) ? result : { ...result, status: 1 };
}
