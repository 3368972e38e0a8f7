import { availableParallelism } from 'node:os';
import { fileURLToPath } from 'node:url';
import { defineConfig } from 'vitest/config';

const root = fileURLToPath(new URL('.', import.meta.url));

export default defineConfig({
  // Tests run on sources: an edit is seen without a build.
  resolve: { alias: [{ find: /^@int-flash\/([a-z-]+)$/, replacement: `${root}packages/$1/src/index.ts` }] },
  test: {
    pool: 'forks', // native addons are not safe to load into several threads of one process
    maxWorkers: Math.min(Math.max(availableParallelism(), 2), 8),
    // Of a slow, busy machine: on an idle one tests and hooks take seconds at most, and what is polled for milliseconds.
    testTimeout: 60_000,
    hookTimeout: 60_000,
    expect: { poll: { timeout: 20_000 } },
    passWithNoTests: true,
    projects: [
      {
        extends: true,
        test: {
          name: 'unit',
          include: ['packages/*/test/**/*.test.ts', 'apps/*/test/**/*.test.ts'],
          exclude: ['**/node_modules/**', '**/*.gpu.test.ts'],
        },
      },
      {
        extends: true,
        test: {
          name: 'gpu',
          include: ['packages/*/test/**/*.gpu.test.ts', 'apps/*/test/**/*.gpu.test.ts'],
          setupFiles: ['./vitest.setup.ts'],
          fileParallelism: false, // one GPU: two test files at once would share its memory and its clock
        },
      },
    ],
  },
});
