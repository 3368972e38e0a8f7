import { defineConfig } from 'tsup';
import { libraryBuild, REQUIRE_BANNER } from '../../tools/tsup-config';

const program = { format: ['esm'] as 'esm'[], shims: false, clean: true, banner: REQUIRE_BANNER };

// The soak job's own programs; nothing of them is published.
export default defineConfig([
  libraryBuild({
    ...program,
    entry: ['soak/soak.ts', 'soak/mock-server.ts', 'soak/exiting.ts'],
    outDir: 'build',
    splitting: true,
    external: ['fast-check'],
  }),
  // Beside the page's packages: the browser is driven by one of them.
  libraryBuild({
    ...program,
    entry: ['../web/soak/hostile-page.ts'],
    outDir: '../web/build',
    external: ['playwright-core'],
  }),
]);
