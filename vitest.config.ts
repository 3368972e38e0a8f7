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
    testTimeout: 30_000,
    expect: { poll: { timeout: 10_000 } }, // of a busy machine: what is polled for takes milliseconds on an idle one
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
