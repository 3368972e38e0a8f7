import { spawnSync } from 'node:child_process';
import type { Finding } from './record.js';

/** S11, in a program of the page's own workspace: it has the browser. */
export async function page(): Promise<Finding[]> {
  const { stdout, status } = spawnSync(process.execPath, ['apps/web/build/hostile-page.js'], {
    stdio: ['ignore', 'pipe', 'inherit'],
    encoding: 'utf8',
  });
  if (status !== 0) throw new Error(`the page's program ended with ${status}`);
  return JSON.parse(stdout) as Finding[];
}
