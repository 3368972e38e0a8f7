import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
// @ts-expect-error: a script's module, without types
import { keepLine } from '../../../tools/keep-line.mjs';

describe('keepLine', () => {
  let folder: string;
  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), 'keep-line-'));
  });
  afterEach(() => rmSync(folder, { recursive: true }));

  it('puts a measurement in place of the one about the same, and leaves others alone', () => {
    const file = join(folder, 'lines.jsonl');
    const about = ({ variant, N }: { variant: string; N: number }) => [variant, N];
    for (const [variant, N, ms] of [
      ['a', 1, 10],
      ['a', 2, 20],
      ['b', 1, 30],
      ['a', 2, 21],
    ])
      keepLine(file, { variant, N, ms }, about);
    expect(readFileSync(file, 'utf8')).toBe(
      '{"variant":"a","N":1,"ms":10}\n{"variant":"a","N":2,"ms":21}\n{"variant":"b","N":1,"ms":30}\n',
    );
  });
});
