// Runs the GPU tests of the repository and writes docs/results/h200/gpu-tests.json (or the path given as argument), a part a package.
//   REQUIRE_CUDA=1 node packages/kernels-cuda/test/record-gpu-tests.mjs [target.json] [part ...]
// Given parts alone, the others stay as they are in the record: for machines that are lent for minutes.
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join, relative, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { gpuTestParts } from './gpu-test-files.mjs';
import { sourcesDigest } from './sources-digest.mjs';

const root = fileURLToPath(new URL('../../../', import.meta.url));
const known = Object.keys(gpuTestParts());
const asked = process.argv.slice(2);
const isTarget = (argument) => argument.endsWith('.json');
const target = resolve(root, asked.find(isTarget) ?? 'docs/results/h200/gpu-tests.json');
const named = asked.filter((argument) => !isTarget(argument));
const unknown = named.filter((part) => !known.includes(part));
if (unknown.length > 0) throw new Error(`Expected parts among ${known.join(', ')}, got ${unknown.join(', ')}`);

const before = existsSync(target) ? (JSON.parse(readFileSync(target, 'utf8')).parts ?? {}) : {};
const parts = {};
for (const part of known) {
  if (named.length === 0 || named.includes(part)) parts[part] = runPart(part);
  else if (before[part]) parts[part] = before[part];
}
const [gpu, driver] = spawnSync('nvidia-smi', ['--query-gpu=name,driver_version', '--format=csv,noheader'], {
  encoding: 'utf8',
})
  .stdout.trim()
  .split(', ');
const total = (name) => Object.values(parts).reduce((sum, part) => sum + part[name], 0);
const counts = Object.fromEntries(
  ['passed', 'failed', 'skipped', 'cases', 'seconds'].map((name) => [name, total(name)]),
);
const record = { ...counts, gpu, driver, parts };
mkdirSync(dirname(target), { recursive: true });
writeFileSync(target, `${JSON.stringify(record, null, 2)}\n`);
process.stdout.write(`${JSON.stringify({ ...counts, gpu, driver })}\n`);
process.exitCode = record.failed > 0 ? 1 : 0;

/** The GPU tests of a package, and how many of each file passed. */
function runPart(part) {
  const report = join(tmpdir(), `gpu-tests-${process.pid}-${part.replaceAll('/', '-')}.json`);
  const started = performance.now();
  const { status } = spawnSync(
    process.execPath,
    ['node_modules/vitest/vitest.mjs', 'run', '--project', 'gpu', part, '--reporter=json', `--outputFile=${report}`],
    { cwd: root, stdio: 'inherit', env: { ...process.env, REQUIRE_CUDA: '1' } },
  );
  const seconds = Math.round((performance.now() - started) / 1000);
  const files = existsSync(report) ? JSON.parse(readFileSync(report, 'utf8')).testResults : [];
  const tests = files.flatMap((file) => file.assertionResults);
  for (const { fullName, failureMessages } of tests.filter((test) => test.status === 'failed'))
    process.stdout.write(`failed: ${fullName}\n${failureMessages.join('\n').slice(0, 600)}\n`);
  const count = (of, wanted) => of.filter((test) => test.status === wanted).length;
  const [passed, failed] = [count(tests, 'passed'), count(tests, 'failed')];
  return {
    passed,
    failed: failed + (status !== 0 && failed === 0 ? 1 : 0),
    skipped: tests.length - passed - failed,
    // A test whose name says "480 cases" runs that many; any other is one.
    cases: tests.reduce((sum, test) => sum + Number(/(\d+) cases$/.exec(test.title)?.[1] ?? 1), 0),
    seconds,
    files: Object.fromEntries(
      files
        .map((file) => [relative(root, file.name).replaceAll('\\', '/'), count(file.assertionResults, 'passed')])
        .sort(),
    ),
    sourcesDigest: sourcesDigest(),
  };
}
