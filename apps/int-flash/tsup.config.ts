import { defineConfig } from 'tsup';
import { libraryBuild } from '../../tools/tsup-config';

// `serve` and the plots of `reproduce` are chunks of their own, so that the other commands do not load their libraries; `clean` removes
// chunks of older builds. Bundled CommonJS asks for Node's own modules by `require`.
export default defineConfig(
  libraryBuild({
    entry: ['src/cli.ts'],
    format: ['esm'],
    shims: false,
    splitting: true,
    clean: true,
    banner: {
      js: "import { createRequire as commonJs } from 'node:module'; const require = commonJs(import.meta.url);",
    },
  }),
);
