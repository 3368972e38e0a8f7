// `npm run bench`: every benchmark in packages/*/bench/*.bench.mjs and apps/*/bench, one after the other, so that none disturbs another.
// Each checks its answers before it times them, prints a table and appends JSON lines to docs/results/.
import { existsSync, readdirSync } from 'node:fs';
import { runNode } from '../process.mjs';

/** Runs them with `args` passed through until one fails or Ctrl-C ends it; resolves to 0, or to that one's exit code. */
export async function runBenchmarks(args) {
  const members = ['packages', 'apps'].flatMap((group) => readdirSync(group).map((name) => `${group}/${name}/bench`));
  const files = members.filter(existsSync).flatMap((folder) =>
    readdirSync(folder)
      .filter((file) => file.endsWith('.bench.mjs'))
      .map((file) => `${folder}/${file}`),
  );
  let status = 0;
  for (const file of files) status ||= (await runNode([file, ...args], { inherit: true })).status;
  return status;
}
