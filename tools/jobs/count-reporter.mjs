import { writeFileSync } from 'node:fs';

/**
 * A vitest reporter that writes `{ passed, failed, skipped }` to the file named by INT_FLASH_COUNTS. A test file that broke
 * outside its tests (a bad import, say) counts as one failure, and so does an unhandled rejection: neither may look like a pass.
 */
export default class CountReporter {
  onTestRunEnd(modules, unhandledErrors) {
    const counts = { passed: 0, failed: unhandledErrors.length, skipped: 0 };
    for (const module of modules) {
      if (module.errors().length > 0) counts.failed++;
      for (const test of module.children.allTests()) {
        const { state } = test.result();
        counts[state === 'pending' ? 'failed' : state]++; // pending at the end: its worker died
      }
      for (const suite of module.children.allSuites()) if (suite.errors().length > 0) counts.failed++; // beforeAll threw
    }
    writeFileSync(process.env.INT_FLASH_COUNTS, JSON.stringify(counts));
  }
}
