import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { supportedIsas } from '../src/index.js';

// In child processes: what is tested is how a process ends.
function run(script: string, ...args: string[]) {
  const path = fileURLToPath(new URL(script, import.meta.url));
  const { status, signal, stdout, stderr } = spawnSync(process.execPath, [path, ...args], { encoding: 'utf8' });
  return { status, signal, stdout, stderr };
}

const { header } = process.report.getReport() as { header: { glibcVersionRuntime?: string } };
const usesGlibc = header.glibcVersionRuntime !== undefined;

describe.skipIf(supportedIsas().length === 0)('the addon in a process of its own', { timeout: 180_000 }, () => {
  it('answers every bad call with a typed error', () => {
    const { status, stdout, stderr } = run('./native-bad-calls.mjs');
    expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
    const { calls, untyped } = JSON.parse(stdout);
    expect(untyped).toEqual([]);
    expect(calls).toBeGreaterThanOrEqual(300 * 4);
  });

  it('attends many short sequences in a few times the memory of what it is given', () => {
    const { status, stdout, stderr } = run('./native-many-sequences.mjs');
    expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
    const { bytesGiven, mostBytes } = JSON.parse(stdout);
    expect(mostBytes).toBeLessThan(6 * bytesGiven);
  });

  it.each([
    ['100 workers terminated inside synchronous calls', ['terminate', 'sync', '100']],
    ['100 workers terminated with calls in flight', ['terminate', 'async', '100']],
    ['8 workers at once', ['eight']],
    ['workers that throw', ['leave', 'throw']],
    ['workers that exit', ['leave', 'exit']],
    ['natural exit after the calls in flight', ['natural']],
    ['idle threads do not keep the process', ['idle']],
  ])('%s: no abort, nothing on stderr', (_, args) => {
    expect(run('./native-lifecycle.mjs', ...args)).toEqual({ status: 0, signal: null, stdout: '', stderr: '' });
  });

  it('process.exit with calls in flight keeps its code', () => {
    for (let i = 0; i < 10; i++) {
      expect(run('./native-lifecycle.mjs', 'exit')).toEqual({ status: 7, signal: null, stdout: '', stderr: '' });
    }
  });

  it.runIf(usesGlibc)('takes the memory of results from what earlier ones gave back', () => {
    const { status, stdout, stderr } = run('./freed-results.mjs');
    expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
    const { faults, pages } = JSON.parse(stdout);
    expect(pages).toBe(1024);
    expect(faults).toBeLessThan(pages / 10);
  });

  it('an uncaught error ends the process as it always does', () => {
    const { status, signal, stderr } = run('./native-lifecycle.mjs', 'throw');
    expect({ status, signal }).toEqual({ status: 1, signal: null });
    expect(stderr).toContain('on purpose');
    expect(stderr).not.toMatch(/terminate called|FATAL|Assertion/);
  });
});
