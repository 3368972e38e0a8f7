import { existsSync, mkdirSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { prepare } from '../phases/prepare.mjs';
import { runNode, runTool } from '../process.mjs';
import { cacheDir } from '../stamp.mjs';

/** Each check is one test to the count: it passes or it fails. */
const CHECKS = {
  lint: () => runTool('@biomejs/biome/bin/biome', ['check', '--diagnostic-level=warn', '.']),
  layers: () => runNode(['tools/checks/check-layers.mjs']),
  docs: () => runNode(['tools/checks/check-docs.mjs']),
  typecheck: async () => {
    const programs = [typecheck('tsconfig.json', 'tsc'), typecheck('apps/web/tsconfig.json', 'tsc-web')];
    const results = await Promise.all(programs);
    return {
      status: Math.max(...results.map(({ status }) => status)),
      output: results.map(({ output }) => output).join(''),
    };
  },
  unused: () => runTool('knip/bin/knip.js', ['--no-progress']),
  versions: () => runNode(['tools/checks/check-versions.mjs']),
  site: () => runNode(['tools/site/build-site.mjs']),
  packaging: () => runNode(['tools/checks/check-packaging.mjs']),
};

/** The page has a program of its own: a browser's types are not Node's. */
function typecheck(project, name) {
  const stamp = join(cacheDir, `${name}.tsbuildinfo`);
  return runTool('typescript/bin/tsc', ['--project', project, '--incremental', '--tsBuildInfoFile', stamp]);
}

/** Everything that needs no GPU: build, checks, tests. @returns the exit status */
export async function testEverything({ cuda } = {}) {
  const total = { passed: 0, failed: 0, skipped: 0 };
  add(total, await runBuild({ native: 'required', build: 'js+types', cuda }));
  add(total, await runChecks(['lint', 'layers', 'docs', 'typecheck', 'unused', 'versions']));
  add(total, await runChecks(['packaging', 'site'])); // these write: after those that read
  add(total, await runVitest('unit', []));
  return conclude(total);
}

/** `npm test -- packages/quant -t rounding`: only vitest, with these arguments. @returns the exit status */
export async function testSome(project, args) {
  await prepare({ native: 'optional' });
  // A filter that fits no file is a typing error; a project without files yet is not.
  return conclude(await runVitest(project, args.length > 0 ? ['--passWithNoTests=false', ...args] : []));
}

/** @param {(keyof typeof CHECKS)[]} names */
export async function runChecks(names) {
  const total = { passed: 0, failed: 0, skipped: 0 };
  const running = names.map(async (name) => ({ name, ...(await CHECKS[name]()) }));
  for (const { name, status, output } of await Promise.all(running)) add(total, report(name, status === 0, output));
  return total;
}

async function runBuild(wanted) {
  try {
    await prepare(wanted);
    return report('build', true, '');
  } catch (error) {
    if (error?.name !== 'PhaseError') throw error;
    return report('build', false, error.message);
  }
}

async function runVitest(project, args) {
  const countsFile = join(cacheDir, `vitest-${project}.json`);
  mkdirSync(cacheDir, { recursive: true });
  rmSync(countsFile, { force: true }); // what another run left must not be counted
  const reporters = ['--reporter=default', '--reporter=./tools/jobs/count-reporter.mjs'];
  const { status } = await runTool('vitest/vitest.mjs', ['run', '--project', project, ...reporters, ...args], {
    inherit: true,
    env: { INT_FLASH_COUNTS: countsFile },
  });
  const counts = existsSync(countsFile)
    ? JSON.parse(readFileSync(countsFile, 'utf8'))
    : { passed: 0, failed: 0, skipped: 0 };
  if (status !== 0 && counts.failed === 0) counts.failed = 1; // it did not get as far as counting
  return counts;
}

function report(name, passed, output) {
  const shown = passed ? output.split('\n').filter((line) => line.startsWith('warning:')) : [output.trimEnd(), ''];
  console.log([`${passed ? '✓' : '✗'} ${name}`, ...shown].join('\n'));
  return { passed: passed ? 1 : 0, failed: passed ? 0 : 1, skipped: 0 };
}

function add(total, { passed, failed, skipped }) {
  total.passed += passed;
  total.failed += failed;
  total.skipped += skipped;
}

function conclude({ passed, failed, skipped }) {
  console.log(`${passed} passed, ${failed} failed${skipped > 0 ? `, ${skipped} skipped` : ''}`);
  return failed > 0 ? 1 : 0;
}
