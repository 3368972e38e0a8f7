import { describe, expect, it } from 'vitest';
import { measureErrors } from '../src/experiments/error-table.js';
import { measureKvFormats } from '../src/experiments/kv-cache-formats.js';
import { medianTime } from '../src/experiments/median-time.js';
import { measurePerChannel } from '../src/experiments/per-channel-claims.js';
import { measureSpeed, SPEED_KEYS, SPEED_VARIANTS } from '../src/experiments/speed-table.js';
import { runStages } from '../src/experiments/stages.js';

const { signal } = new AbortController();
const ignore = () => {};

describe('measureErrors', () => {
  it('averages the seeds, and ranks the ways as their steps say', async () => {
    const progress: number[] = [];
    const table = await measureErrors(
      {
        backend: 'portable',
        distributions: ['normal', 'sink'],
        variants: ['paper-int8', 'full-int8', 'fp8-e5m2'],
        keys: [256, 512],
        heads: 1,
        queries: 8,
        headDim: 64,
        scale: 0.125,
        seeds: 2,
        signal,
      },
      (fraction) => progress.push(fraction),
    );
    expect(table.rows).toHaveLength(2 * 2 * 3);
    expect(progress.at(-1)).toBe(1);
    const at = (variant: string) =>
      table.rows.find((row) => row.variant === variant && row.distribution === 'normal' && row.keys === 512)!;
    expect(at('full-int8').relativeL2).toBeLessThan(at('paper-int8').relativeL2);
    expect(at('paper-int8').relativeL2).toBeLessThan(at('fp8-e5m2').relativeL2);
    const [least, largest] = at('paper-int8').mreLastFour;
    expect(least).toBeLessThan(largest); // two seeds
  });
});

describe('measurePerChannel', () => {
  it('gives about the figures of the log that arXiv 2601.04719 publishes with its code', async () => {
    const rows = await measurePerChannel(64, signal, ignore);
    const published = { 64: 0.008454, 1024: 0.033607, 4096: 0.066897, 8192: 0.094911 }; // its query differs from run to run
    for (const [dims, scoreError] of Object.entries(published)) {
      const row = rows.find((candidate) => candidate.dims === Number(dims) && candidate.distribution !== 'normal')!;
      expect(row.maxError).toBeLessThanOrEqual(1 / 254 + 1e-7);
      expect(row.maxError).toBeGreaterThan(0.0037);
      expect(row.scoreError / scoreError, `${dims} dimensions`).toBeGreaterThan(0.75);
      expect(row.scoreError / scoreError, `${dims} dimensions`).toBeLessThan(1.25);
      expect(row.smallerThanFp32).toBeCloseTo(4 / (1 + 4 / 64), 10);
    }
  });
});

describe('measureKvFormats', () => {
  it('counts the bytes of each format, and keeps fp32 exact', async () => {
    const { rows } = await measureKvFormats({ tokens: 256, headDim: 128, queries: 4 }, signal, ignore);
    const of = (name: string, distribution = 'normal') =>
      rows.find((row) => row.format.includes(name) && row.distribution === distribution)!;
    expect(of('fp32')).toMatchObject({ bytesPerToken: 1024, keyError: 0, valueError: 0, attentionError: 0 });
    expect(of('ours INT8').bytesPerToken).toBe(2 * (128 + 4));
    expect(of('ours INT4').bytesPerToken).toBe(2 * (64 + 4));
    expect(of('KIVI, 4').bytesPerToken).toBe(2 * (64 + (128 / 32) * 8));
    expect(of('ours INT8').attentionError).toBeLessThan(0.02);
    // A channel's offset is nothing once the mean is gone, and most of what a token's scale pays for otherwise.
    expect(of('ours INT8', 'kbias').attentionError).toBeLessThan(of('per channel', 'kbias').attentionError);
    // One sink token decides a channel's scale of all others.
    expect(of('per channel', 'sink').attentionError).toBeGreaterThan(3 * of('ours INT8', 'sink').attentionError);
  });
});

describe('measureSpeed', () => {
  it('leaves out what the time does not suffice for, and says how long it would take', async () => {
    const settings = { backend: 'portable', heads: 1, headDim: 8, budgetMs: 1, signal } as const;
    const { rows, baselineType } = await measureSpeed(settings, ignore);
    expect(baselineType).toBe('fp32');
    expect(rows).toHaveLength(SPEED_VARIANTS.length * SPEED_KEYS.length);
    expect(
      rows.filter(({ variant }) => variant === 'fp8').every(({ ms, note }) => ms === null && /FP8/.test(note!)),
    ).toBe(true);
    expect(rows[0]!.ms).toBeGreaterThan(0);
    expect(rows.at(-1)).toMatchObject({ keys: 16384, ms: null, note: expect.stringMatching(/left out, about \d+ s/) });
  });

  it('stops between calls when told to', async () => {
    const stopped = AbortSignal.abort(new Error('enough'));
    const settings = { backend: 'portable', heads: 1, headDim: 8, budgetMs: 1e6, signal: stopped } as const;
    await expect(measureSpeed(settings, ignore)).rejects.toThrow('enough');
  });
});

describe('medianTime', () => {
  it('takes the first run where there is time for no other', async () => {
    let calls = 0;
    const timed = await medianTime(async () => ++calls, 5, 0);
    expect(timed).toMatchObject({ result: 1, runs: 1 });
    expect((await medianTime(async () => ++calls, 3, 1e4)).runs).toBe(3);
  });
});

describe('runStages', () => {
  it('weighs the parts into one progress', async () => {
    const seen: number[] = [];
    const stage = (weight: number, result: string) => ({
      weight,
      run: async (onProgress: (fraction: number) => void) => {
        onProgress(0.5);
        return result;
      },
    });
    const results = await runStages([stage(1, 'a'), stage(3, 'b')] as const, (fraction) => seen.push(fraction));
    expect(results).toEqual(['a', 'b']);
    expect(seen).toEqual([0.125, 0.25, 0.625, 1]);
  });
});
