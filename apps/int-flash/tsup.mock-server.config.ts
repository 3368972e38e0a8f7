import { defineConfig } from 'tsup';
import { libraryBuild, REQUIRE_BANNER } from '../../tools/tsup-config';

// The server with a mock engine alone, for tests that want it as a process of its own.
export default defineConfig(
  libraryBuild({
    entry: { 'mock-server-alone': 'soak/mock-server.ts' },
    format: ['esm'],
    shims: false,
    banner: REQUIRE_BANNER,
    outDir: 'build',
  }),
);
