import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it, vi } from 'vitest';
import type { ErrorRow } from '../src/experiments/error-table.js';
import { judgeClaims } from '../src/experiments/paper-claims.js';
import type { KvCacheReport, ReproductionReport } from '../src/experiments/reproduction.js';
import { SPEED_KEYS, SPEED_VARIANTS } from '../src/experiments/speed-table.js';
import { htmlReport } from '../src/report/html-report.js';
import { markdownReport } from '../src/report/markdown-report.js';
import { resultLines } from '../src/report/result-lines.js';
import { runFake } from './fake-app.js';
import { runCommand } from './run-command.js';

/** Where the system has no place for a folder: Linux says ENOENT in /proc, others when they read the name. */
const NOWHERE = existsSync('/proc') ? '/proc' : '\0';

/** Mean relative errors that reproduce the paper to the digit: FP8 1, INT8 1 − what it claims. */
function madeUpReport({ savedTime = 0.75, timedUpTo = Infinity, textTokens = 2000 } = {}): ReproductionReport {
  const row = (distribution: ErrorRow['distribution'], variant: ErrorRow['variant'], mre: number): ErrorRow => ({
    distribution,
    variant,
    mre,
    keys: 1024,
    relativeL2: mre / 100,
    cosine: 0.999,
    rowP99: mre / 50,
    maxError: 0.01,
    mreLastFour: [mre / 2, mre * 2],
  });
  const paper = { uniform: 0.18, centred: 0.18, normal: 0.54 } as const;
  const script = (Object.keys(paper) as (keyof typeof paper)[]).flatMap((distribution) => [
    row(distribution, 'fp8-e5m2', 0.5),
    row(distribution, 'fp8-e5m2-stored', 1),
    row(distribution, 'paper-int8', paper[distribution]),
    row(distribution, 'paper-half-int8', 0.05),
    row(distribution, 'full-int8', 0.06),
    row(distribution, 'half-int8', 0.04),
    row(distribution, 'flash-d', 1e-5),
  ]);
  const table = (rows: ErrorRow[]) => ({ heads: 1, queries: 4, headDim: 64, scale: 1, seeds: 2, rows });
  const speed = {
    device: 'a device',
    baselineType: 'fp16',
    baseline: 'a baseline',
    timed: 'one call',
    batch: 1,
    heads: 1,
    headDim: 64,
    rows: SPEED_KEYS.flatMap((keys) =>
      SPEED_VARIANTS.map((variant) => ({
        keys,
        variant,
        ms:
          keys > timedUpTo ? null : variant === 'full-int8' ? 10 * (1 - savedTime) : variant === 'paper-int8' ? 6 : 10,
      })),
    ),
  } as const;
  const perChannel = (['uniform in [-1, 1]', 'normal'] as const).map((distribution) => ({
    distribution,
    dims: 8192,
    maxError: distribution === 'normal' ? 0.02 : 0.0039,
    scoreError: distribution === 'normal' ? 0.57 : 0.095,
    scaledScoreError: 0.001,
    smallerThanFp32: 3.99,
  }));
  const kvModel = {
    model: 'a <model>',
    window: 1024,
    rows: (['fp32', 'fp16', 'int8', 'int4'] as const).map((kvCacheDtype, i) => ({
      text: 'eval.txt',
      attention: i < 2 ? ('fp32' as const) : ('int8' as const),
      kvCacheDtype,
      tokens: textTokens,
      perplexity: 5 + i / 10,
      perplexityChange: [0, 0, 0.004, 0.031][i]!,
      cacheBytes: 1000 / (i + 1),
      smallerThanFp32: i + 1,
      smallerThanFp16: (i + 1) / 2,
    })),
  };
  const kvFit = (['filled', 'by bytes'] as const).flatMap((how) =>
    (
      [
        ['fp16', 10],
        ['int8', 19],
        ['int4', 34],
      ] as const
    ).map(([kvCacheDtype, sequences]) => ({
      model: how,
      kvCacheDtype,
      tokens: 1024,
      memoryBytes: 2 ** 24,
      sequences,
      timesFp16: sequences / 10,
      how,
    })),
  );
  const errors = table([
    row('normal', 'full-int8', 0.06),
    row('sink', 'full-int8', 0.07),
    row('normal', 'int4-qk', 20),
    row('sink', 'int4-qk', 30),
    row('normal', 'fp8-e5m2', 10),
  ]);
  const claims = judgeClaims({ speed, errors, script: table(script), perChannel, kvModel, kvFit });
  const format = { format: 'KIVI | 4', distribution: 'sink', bytesPerToken: 192, smallerThanFp32: 5.3 } as const;
  return {
    origin: { version: '1', date: '2026-01-01', cpu: 'a cpu', threads: 2, backend: 'cpu (avx2)', quick: true },
    claims,
    speed,
    errors,
    script: table(script),
    formats: {
      tokens: 16,
      headDim: 128,
      queries: 2,
      rows: [{ ...format, keyError: 0.1, valueError: 0.2, attentionError: 0.3 }],
    },
    perChannel,
    kvModel,
    kvFit,
  };
}

const verdicts = (report: ReproductionReport) => report.claims.map((claim) => [claim.reproducedHolds, claim.oursHolds]);

describe('judgeClaims', () => {
  it('holds what is measured against what was published', () => {
    expect(verdicts(madeUpReport())).toEqual([
      [false, true], // 40% and 75% saved, 73% claimed
      [true, true], // 82% on U(0, 1)
      [true, true],
      [true, true], // 46% on N(0, 1)
      [true, true], // half-INT8 closer
      [null, true], // INT4 is an answer
      [true, false], // 0.004: uniform data only
      [true, false],
      [true, null],
      [null, false], // INT4 cost 3.1%
      [null, false], // INT4 fits 3.4 times as often
      [true, null],
    ]);
  });

  it('is not satisfied with some of the lengths', () => {
    const [speed] = madeUpReport({ savedTime: 0.7 }).claims;
    expect(speed).toMatchObject({ oursHolds: false, ours: '70% / 70% / 70% / 70% / 70%' });
    expect(speed).toMatchObject({ reproducedHolds: false, reproduced: '40% / 40% / 40% / 40% / 40%' });
  });

  it('does not take lengths that were not timed for lengths that were reached', () => {
    const [speed] = madeUpReport({ timedUpTo: 1024 }).claims;
    expect(speed).toMatchObject({ oursHolds: null, ours: '75% / – / – / – / –' });
    const [slower] = madeUpReport({ timedUpTo: 1024, savedTime: 0.1 }).claims;
    expect(slower).toMatchObject({ oursHolds: false, ours: '10% / – / – / – / –' });
  });

  it("judges what a memory holds by a GPU's, where one was filled", () => {
    const report = madeUpReport();
    const onGpu = report.kvFit!.map((row) => ({ ...row, how: 'GPU filled' as const, timesFp16: row.timesFp16 + 0.1 }));
    const claims = judgeClaims({ ...report, kvFit: [...report.kvFit!, ...onGpu] });
    const fit = claims.find(({ claim }) => claim.startsWith('A memory holds'));
    expect(fit).toMatchObject({ ours: '2.00 and 3.50 times', oursHolds: true, why: expect.stringMatching(/^A GPU's/) });
  });

  it('does not judge a cache by a few tokens', () => {
    const cache = madeUpReport({ textTokens: 482 }).claims.find(({ claim }) => claim.startsWith('A KV cache in INT8'));
    expect(cache).toMatchObject({ oursHolds: null, why: expect.stringContaining('482 tokens are too few') });
  });
});

describe('reports', () => {
  const report = madeUpReport();

  it('markdown: every table whole, a column a cell', () => {
    const markdown = markdownReport(report);
    const tables = markdown.split('\n\n').filter((part) => part.startsWith('|'));
    expect(tables).toHaveLength(9);
    for (const table of tables) {
      const widths = table
        .trim()
        .split('\n')
        .map((line) => line.replaceAll('\\|', '').split('|').length);
      expect(new Set(widths).size).toBe(1);
    }
    expect(markdown).toContain('✓ 82% at 1,024 keys');
    expect(markdown).toContain('KIVI \\| 4');
  });

  it('says once of each way which lengths there was no time for', () => {
    const rows = report.speed.rows.map((row) =>
      row.keys > 2048 && row.variant !== 'fp8'
        ? { ...row, ms: null, note: `left out, about ${row.keys} s a call` }
        : row,
    );
    const markdown = markdownReport({ ...report, speed: { ...report.speed, baselineType: 'fp32', rows } });
    expect(markdown).toContain('fp32 from 4,096 tokens on: left out, about 4096 s a call. half-int8 from');
    expect(markdown.match(/left out/g)).toHaveLength(4);
  });

  it('HTML: one file that asks for nothing, three plots, text escaped', () => {
    // A plot of few lengths has lines of few points each; the library must not take them for one line, and say so.
    const warned = vi.spyOn(console, 'warn').mockImplementation(() => {});
    const html = htmlReport(report);
    expect(warned).not.toHaveBeenCalled();
    warned.mockRestore();
    expect(html).not.toMatch(/<script|<link|<img|\ssrc=|\shref=|url\((?!#)|@import/);
    expect(html.match(/https?:\/\/[^"\s<]+/g) ?? []).toEqual([]);
    expect(html.match(/<svg[^>]*role="img"/g)).toHaveLength(3);
    expect(html.match(/<svg(?![^>]*(role="img"|aria-hidden="true"))/g)).toBeNull(); // a reader hears the plots, not the legends' squares
    expect(html).toContain('aria-label="Milliseconds by tokens"');
    expect(html.match(/<path d="M[^"]*L[^"]*"[^>]* stroke="#/g)!.length).toBeGreaterThanOrEqual(4); // a line a variant
    expect(html).toContain('a &lt;model&gt;');
  });

  it('result lines: each one JSON with its origin', () => {
    const lines = resultLines(report, 'abc').trim().split('\n');
    const parsed = lines.map((line) => JSON.parse(line));
    for (const line of parsed)
      expect(line).toMatchObject({ commit: 'abc', cpu: 'a cpu', backend: 'cpu (avx2)', quick: true });
    expect(parsed.filter(({ bench }) => bench === 'attention-error-script')).toHaveLength(21);
    expect(parsed.filter(({ bench }) => bench === 'claim')).toHaveLength(report.claims.length);
    expect(parsed.find(({ bench }) => bench === 'kv-cache-model')).toMatchObject({ model: 'a <model>', window: 1024 });
  });
});

describe('the command', () => {
  const folder = () => join(mkdtempSync(join(tmpdir(), 'int-flash-report-')), 'report');

  it('reproduce kv-cache --quick writes its report, without a word on stderr', async () => {
    const out = folder();
    const { code, stdout, stderr } = await runCommand(['reproduce', 'kv-cache', '--quick', '--json', '--out', out]);
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
    expect(JSON.parse(readFileSync(join(out, 'report.json'), 'utf8'))).toEqual(JSON.parse(stdout));
    expect(readFileSync(join(out, 'report.md'), 'utf8')).toContain('# KV-cache formats, measured');
    const { kvModel, kvFit, claims } = JSON.parse(stdout) as KvCacheReport;
    expect(claims.map(({ source }) => source)).toEqual([
      'arXiv 2601.04719',
      'arXiv 2601.04719',
      'arXiv 2601.04719',
      'this project',
      'this project',
    ]);
    expect(claims.slice(3).map(({ oursHolds }) => oursHolds)).toEqual([true, true]);
    // 32 pages of 64 tokens in fp16, 60 in INT8, 113 in INT4: whole sequences of 16 pages.
    const filled = kvFit!.filter(({ how }) => how === 'filled');
    expect(filled.map(({ kvCacheDtype, sequences }) => [kvCacheDtype, sequences])).toEqual([
      ['fp32', 1],
      ['fp16', 2],
      ['int8', 3],
      ['int4', 7],
    ]);
    // A large model's pages, as allocated: heads of 128 in 2 bytes, against a byte or half of one and 4 bytes of scale.
    const large = kvFit!.filter(({ how }) => how === 'by bytes');
    expect(large.map(({ kvCacheDtype, timesFp16 }) => [kvCacheDtype, Number(timesFp16.toFixed(3))])).toEqual([
      ['fp32', 0.5],
      ['fp16', 1],
      ['int8', 1.939],
      ['int4', 3.765],
    ]);
    for (const row of kvModel!.rows) {
      const limit = { fp32: 0.001, fp16: 0, int8: 0.005, int4: 0.03 }[row.kvCacheDtype];
      expect(row.perplexityChange, `${row.text} ${row.kvCacheDtype}`).toBeLessThanOrEqual(limit);
    }
    // Of 1.9 and 3.5 times against fp16; head dimension 64 has 4 bytes of scale for 64 and 32 bytes of codes.
    const smaller = (dtype: string) =>
      kvModel!.rows.find(({ kvCacheDtype }) => kvCacheDtype === dtype)!.smallerThanFp32;
    expect(smaller('int8')).toBeCloseTo(256 / 68, 1);
    expect(smaller('int4')).toBeCloseTo(256 / 36, 1);
  }, 240_000);

  it('Ctrl-C ends it with exit code 130, and leaves no half report', async () => {
    const out = folder();
    const run = runCommand(['reproduce', '--quick', '--out', out], {
      onSpawn: (child) => {
        const poll = setInterval(() => {
          if (!existsSync(out)) return; // made when the work begins
          clearInterval(poll);
          setTimeout(() => child.kill('SIGINT'), 200);
        }, 20);
      },
    });
    const { code, stdout } = await run;
    expect({ code, stdout }).toEqual({ code: 130, stdout: '' });
    expect(existsSync(out)).toBe(false);
  }, 60_000);

  it('leaves no empty folder of its own behind where it measured nothing, and every other one', async () => {
    const at = mkdtempSync(join(tmpdir(), 'int-flash-report-'));
    for (const there of ['empty', 'full']) mkdirSync(join(at, there));
    writeFileSync(join(at, 'full', 'mine'), '');
    for (const out of ['new', 'new/deep', 'empty', 'full', 'full/new']) {
      const args = ['reproduce', '--out', join(at, out), '--results', join(at, 'results', 'all', 'lines.jsonl')];
      const run = await runFake(args); // whose runtime measures nothing
      expect(run).toMatchObject({ code: 1, stdout: '' });
      expect(run.stderr).toContain('Expected a library that measures');
    }
    expect(readdirSync(at, { recursive: true }).sort()).toEqual(['empty', 'full', join('full', 'mine')]);
  });

  it('leaves a folder of its own that holds something by now', async () => {
    const at = mkdtempSync(join(tmpdir(), 'int-flash-report-'));
    const reproduce = async () => {
      writeFileSync(join(at, 'new', 'theirs'), '');
      throw new Error('broken');
    };
    await runFake(['reproduce', '--out', join(at, 'new', 'deep')], { runtime: { reproduce } });
    expect(readdirSync(at, { recursive: true }).sort()).toEqual(['new', join('new', 'theirs')]);
  });

  it('leaves none behind where the file of results cannot be', async () => {
    const at = mkdtempSync(join(tmpdir(), 'int-flash-report-'));
    await runFake(['reproduce', '--out', join(at, 'x'), '--results', at]);
    expect(readdirSync(at)).toEqual([]);
  });

  it.each([
    ['a file in its way', (at: string) => ['--out', join(at, 'file')], 2, /^ERR_USAGE: Expected a folder, got a file/],
    ['a file above it', (at: string) => ['--out', join(at, 'file', 'deep')], 2, /^ERR_USAGE: Expected a folder/],
    ['no text for a path', () => ['--out', ''], 2, /^ERR_USAGE: .*Expected a path/],
    ['a folder for its results', (at: string) => ['--results', at, '--out', join(at, 'x')], 2, /Expected a file/],
    ['a place where nothing can be', () => ['--out', join(NOWHERE, 'x', 'y')], 1, /^E[A-Z]+: /],
  ])('says before its work that it cannot write: %s', async (_, args, code, message) => {
    const at = mkdtempSync(join(tmpdir(), 'int-flash-report-'));
    writeFileSync(join(at, 'file'), '');
    const run = await runFake(['reproduce', ...args(at)]); // whose runtime measures nothing, but owns up to being asked
    expect(run).toMatchObject({ code, stdout: '' });
    expect(run.stderr).toMatch(message);
    expect(readFileSync(join(at, 'file'), 'utf8')).toBe('');
  });

  it.each([
    [['reproduce', 'speed'], /Allowed choices are all, kv-cache/],
    [['reproduce', '--backend', 'tpu'], /Allowed choices are auto, cuda, cpu, portable/],
  ])('refuses %j with exit code 2', async (args, message) => {
    const { code, stderr } = await runCommand(args);
    expect(code).toBe(2);
    expect(stderr).toMatch(message);
  });
});
