import { defineConfig } from 'tsup';
import { libraryBuild, REQUIRE_BANNER } from '../../tools/tsup-config';

// `serve` and the plots of `reproduce` are chunks of their own, so that the other commands do not load their libraries; `clean` removes
// chunks of older builds.
export default defineConfig(
  libraryBuild({
    entry: ['src/cli.ts'],
    format: ['esm'],
    shims: false,
    splitting: true,
    clean: true,
    banner: REQUIRE_BANNER,
  }),
);
