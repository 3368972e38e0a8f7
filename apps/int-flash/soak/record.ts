import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import { join } from 'node:path';

/** The job runs in the repository root. */
const FOLDER = 'docs/results/cpu';

/** One figure; with a bound it is a promise. */
export interface Finding {
  readonly what: string;
  readonly value: number;
  readonly unit: string;
  /** The value may be at most this. */
  readonly bound?: number;
}

/**
 * Replaces the lines of this piece.
 * @param loadBefore the system's load of the last minute as the piece began
 */
export function record(piece: string, seconds: number, loadBefore: number, findings: readonly Finding[]): void {
  const commit = spawnSync('git', ['rev-parse', '--short', 'HEAD'], { encoding: 'utf8' }).stdout?.trim() || 'unknown';
  const machine = {
    cpu: os.cpus()[0]?.model.trim() ?? 'unknown',
    cores: os.availableParallelism(),
    load: round(loadBefore), // above 0, others had a share of the cores
  };
  const path = join(FOLDER, 'soak.jsonl');
  const kept = existsSync(path)
    ? readFileSync(path, 'utf8')
        .split('\n')
        .filter((line) => line !== '' && JSON.parse(line).soak !== piece)
    : [];
  const lines = findings.map((finding) =>
    JSON.stringify({ soak: piece, commit, ...machine, node: process.versions.node, ...finding, seconds }),
  );
  mkdirSync(FOLDER, { recursive: true });
  writeFileSync(path, `${[...kept, ...lines].join('\n')}\n`);
}

export function quantile(values: readonly number[], part: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.min(Math.floor(sorted.length * part), sorted.length - 1)] ?? 0;
}

export function round(value: number, digits = 1): number {
  return Math.round(value * 10 ** digits) / 10 ** digits;
}
