// `npm run soak`: the long forms of what the tests check in short, which take minutes. Figures go to docs/results/cpu/soak.jsonl.
import { join } from 'node:path';
import { PhaseError, root, runNode } from '../process.mjs';

/** @param {string[]} args pieces to run; all when there are none. @returns the exit status */
export async function soak(args) {
  const app = join(root, 'apps', 'int-flash');
  const tsup = join(root, 'node_modules', 'tsup', 'dist', 'cli-default.js');
  const { status, output } = await runNode([tsup, '--config', 'tsup.soak.config.ts'], { cwd: app });
  if (status !== 0) throw new PhaseError(`${output}\nBuilding the soak programs failed.`);
  return (await runNode([join(app, 'build', 'soak.js'), ...args], { inherit: true })).status;
}
