import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { gpuTestParts } from './gpu-test-files.mjs';
import { sourcesDigest } from './sources-digest.mjs';

interface Part {
  readonly passed: number;
  readonly files: Readonly<Record<string, number>>;
  readonly sourcesDigest: string;
}

const record = JSON.parse(readFileSync(new URL('../../../docs/results/h200/gpu-tests.json', import.meta.url), 'utf8'));
const parts: Readonly<Record<string, Part>> = record.parts ?? {};

describe('the record of the last GPU run', () => {
  // After a change to native/ or kernels/, and for new test files: run record-gpu-tests.mjs (see README.md) on a GPU host and commit what it writes.
  it.each(Object.entries(gpuTestParts()))('is of these sources, and of all files of %s', (part, files) => {
    expect(parts[part]?.sourcesDigest).toBe(sourcesDigest());
    expect(Object.keys(parts[part]?.files ?? {})).toEqual(files);
    for (const [file, passed] of Object.entries(parts[part]?.files ?? {})) expect(passed, file).toBeGreaterThan(0);
  });
  it('has kernels, whole models and the demo', () => {
    expect(Object.keys(gpuTestParts()).sort()).toEqual(['apps/int-flash', 'packages/kernels-cuda', 'packages/llm']);
    expect(record.passed).toBe(Object.values(parts).reduce((sum, { passed }) => sum + passed, 0));
  });
  it('shows every case passed, none skipped', () => {
    expect(record).toMatchObject({ failed: 0, skipped: 0 });
    expect(record.cases).toBeGreaterThanOrEqual(10_000);
  });
});
