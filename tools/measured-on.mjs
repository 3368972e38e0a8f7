import { spawnSync } from 'node:child_process';
import { cpus } from 'node:os';
import { root } from './process.mjs';

/** What a line in docs/results says of where its figures come from. @returns {{ commit: string, cpu: string }} */
export function measuredOn() {
  const { stdout } = spawnSync('git', ['rev-parse', '--short', 'HEAD'], { cwd: root, encoding: 'utf8' });
  return { commit: stdout?.trim() || 'unknown', cpu: cpus()[0]?.model.trim() ?? 'unknown' };
}
