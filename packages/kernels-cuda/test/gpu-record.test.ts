import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { gpuTestParts, testDigest } from './gpu-test-files.mjs';
import { sourcesDigest } from './sources-digest.mjs';

interface Outcome {
  readonly passed: number;
  readonly failed: number;
  readonly skipped: number;
  readonly cases: number;
  readonly seconds: number;
  readonly testDigest: string;
  readonly sourcesDigest: string;
}

/** A line of sanitize.mjs or soak.mjs, and on what it ran. */
interface Check {
  readonly check: string;
  readonly sourcesDigest?: string;
  readonly clean?: boolean;
  readonly seconds?: number;
  readonly summaries?: readonly string[];
  readonly deviceBytesMoved?: number;
}

const textOf = (name: string) =>
  readFileSync(new URL(`../../../docs/results/h200/${name}`, import.meta.url), 'utf8').trim();
const linesOf = (name: string) =>
  textOf(name)
    .split('\n')
    .map((line) => JSON.parse(line));
const record = JSON.parse(textOf('gpu-tests.json'));
const checks: readonly Check[] = linesOf('gpu-checks.jsonl');
const files: Readonly<Record<string, Outcome>> = record.files ?? {};

describe('the record of the last GPU run', () => {
  // After a change to native/, kernels/ or a test: run record-gpu-tests.mjs (see README.md) on a GPU host, of tests those that changed, and commit what it writes.
  it('is of these sources', () => {
    expect(record.sourcesDigest).toBe(sourcesDigest());
  });
  it.each(Object.values(gpuTestParts()).flat())('has %s as it is, all passed', (file) => {
    expect(files[file]).toMatchObject({
      failed: 0,
      skipped: 0,
      testDigest: testDigest(file),
      sourcesDigest: sourcesDigest(),
    });
    expect(files[file]?.passed).toBeGreaterThan(0);
  });
  it('has kernels, whole models and the demo, and nothing that is gone', () => {
    expect(Object.keys(gpuTestParts()).sort()).toEqual(['apps/int-flash', 'packages/kernels-cuda', 'packages/llm']);
    expect(Object.keys(files)).toEqual(Object.values(gpuTestParts()).flat().sort());
  });
  it('adds up to ten thousand cases and more, none failed or skipped', () => {
    const total = (name: 'passed' | 'cases') => Object.values(files).reduce((sum, file) => sum + file[name], 0);
    expect(record).toMatchObject({ passed: total('passed'), failed: 0, skipped: 0, cases: total('cases') });
    expect(record.cases).toBeGreaterThanOrEqual(10_000);
  });
});

describe('the record of what watches the kernels by hand', () => {
  // After a change to native/ or kernels/: run sanitize.mjs and soak.mjs as well, and keep the lines that they print.
  it.each(checks)('is of these sources: $check', ({ sourcesDigest: ranOn }) => {
    expect(ranOn).toBe(sourcesDigest());
  });
  it('has every sanitizer, clean over 48 shapes and more', () => {
    const sanitizers = checks.filter(({ check }) => check !== 'soak');
    expect(sanitizers.map(({ check }) => check).sort()).toEqual(['initcheck', 'memcheck', 'racecheck', 'synccheck']);
    for (const { check, clean, summaries } of sanitizers) {
      expect(clean, check).toBe(true);
      const shapes = Number(/^(\d+) shapes$/.exec(summaries?.find((line) => / shapes$/.test(line)) ?? '')?.[1]);
      expect(shapes, check).toBeGreaterThanOrEqual(48);
    }
  });
  it('took 8 minutes at most, with the tests of the kernels', () => {
    const kernels = Object.entries(files).filter(([file]) => file.startsWith('packages/kernels-cuda/'));
    const parts = [...kernels.map(([, outcome]) => outcome), ...checks.filter(({ check }) => check !== 'soak')];
    const tenths = parts.reduce((sum, { seconds }) => sum + Math.round(10 * seconds!), 0); // as they are recorded
    expect(tenths).toBeLessThanOrEqual(4800);
  });
  it('has 10,000 rounds that left nothing', () => {
    const [soak] = checks.filter(({ check }) => check === 'soak');
    expect(soak).toMatchObject({ rounds: 10_000, passed: true, liveBytes: 0 });
    expect(soak!.deviceBytesMoved).toBeLessThanOrEqual(2 * 2 ** 20);
  });
});

describe('the record of the forward by mma.sync, which every GPU has', () => {
  const lines = linesOf('attention-forward.jsonl').filter(
    ({ entry, B, H, N, D, causal }) => entry === 'kernel' && B === 4 && H === 32 && N === 4096 && D === 128 && !causal,
  );
  const topsOf = (wanted: string) => {
    const found = lines.filter(({ variant }) => variant === wanted).map(({ tops }) => tops as number);
    expect(found.length, wanted).toBeGreaterThan(0);
    return Math.min(...found);
  };
  it('has 500 TOPS of full-int8, and three quarters of what that is of half-int8', () => {
    const full = topsOf('full-int8-sorted');
    expect(full).toBeGreaterThanOrEqual(500);
    expect(topsOf('half-int8-portable')).toBeGreaterThanOrEqual(0.75 * full);
  });
});
