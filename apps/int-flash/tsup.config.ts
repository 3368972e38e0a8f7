import { defineConfig } from 'tsup';
import { libraryBuild } from '../../tools/tsup-config';

// `serve` is a chunk of its own, so that the other commands do not load its libraries; `clean` removes chunks of older builds.
export default defineConfig(
  libraryBuild({ entry: ['src/cli.ts'], format: ['esm'], shims: false, splitting: true, clean: true }),
);
