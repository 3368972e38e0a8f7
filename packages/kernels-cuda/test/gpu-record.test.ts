import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { sourcesDigest } from './sources-digest.mjs';

const record = JSON.parse(readFileSync(new URL('../../../docs/results/h200/gpu-tests.json', import.meta.url), 'utf8'));

describe('the record of the last GPU run', () => {
  it('is of these sources', () => {
    // After a change to native/ or kernels/: run record-gpu-tests.mjs (see README.md) on a GPU host and commit what it writes.
    expect(record.sourcesDigest).toBe(sourcesDigest());
  });
  it('shows every case passed, none skipped', () => {
    expect(record).toMatchObject({ failed: 0, skipped: 0 });
    expect(record.cases).toBeGreaterThanOrEqual(10_000);
  });
});
