import { readFileSync } from 'node:fs';

/**
 * Counts a vitest run. A test file that failed before its first test (a bad import, say) counts as one failure, and so
 * does a run that failed with every test green (an unhandled rejection): neither may look like a pass.
 * @param {string} reportFile vitest's JSON report
 * @param {number} status     vitest's exit status
 * @returns {{ passed: number, failed: number, skipped: number }}
 */
export function countTests(reportFile, status) {
  const counts = { passed: 0, failed: 0, skipped: 0 };
  let report;
  try {
    report = JSON.parse(readFileSync(reportFile, 'utf8'));
  } catch {
    return { ...counts, failed: 1 }; // vitest did not get as far as writing one
  }
  for (const file of report.testResults) {
    if (file.status === 'failed' && file.assertionResults.every((test) => test.status !== 'failed')) counts.failed++;
    for (const test of file.assertionResults) {
      counts[test.status === 'passed' || test.status === 'failed' ? test.status : 'skipped']++;
    }
  }
  if (status !== 0 && counts.failed === 0) counts.failed = 1;
  return counts;
}
