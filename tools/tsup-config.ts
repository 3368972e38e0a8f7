import type { Options } from 'tsup';
import { bundledLicences } from './bundled-licences.mjs';

/** For programs: bundled CommonJS asks for Node's own modules by `require`, which an ES module does not have. */
export const REQUIRE_BANNER = {
  js: "import { createRequire as commonJs } from 'node:module'; const require = commonJs(import.meta.url);",
};

/**
 * One build for every library package: ESM and CommonJS from the front door `src/index.ts`. Types are a second run,
 * `tsup --dts-only`: they take twenty times as long, and running the program does not need them.
 */
export function libraryBuild(overrides: Options = {}): Options {
  return {
    entry: ['src/index.ts'],
    format: ['esm', 'cjs'],
    target: 'es2022',
    platform: 'node',
    tsconfig: '../../tsconfig.build.json',
    shims: true, // import.meta.url in the CommonJS build: a native addon is found relative to it
    splitting: false, // one file per format, so neither run leaves stale chunks behind
    sourcemap: true,
    clean: false, // the two runs share dist/
    silent: true,
    ...overrides,
    esbuildPlugins: [...(overrides.esbuildPlugins ?? []), bundledLicences],
  };
}
