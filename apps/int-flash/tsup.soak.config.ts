import { defineConfig } from 'tsup';
import { libraryBuild, REQUIRE_BANNER } from '../../tools/tsup-config';

// The soak job's own programs; nothing of them is published.
export default defineConfig(
  libraryBuild({
    entry: ['soak/soak.ts', 'soak/mock-server.ts', 'soak/exiting.ts'],
    outDir: 'build',
    format: ['esm'],
    shims: false,
    splitting: true,
    clean: true,
    banner: REQUIRE_BANNER,
    external: ['fast-check'],
  }),
);
