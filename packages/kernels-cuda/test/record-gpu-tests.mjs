// Runs the GPU tests of the repository and writes docs/results/h200/gpu-tests.json (or the path given as argument), a line a file of tests.
//   REQUIRE_CUDA=1 node packages/kernels-cuda/test/record-gpu-tests.mjs [target.json] [package or file ...]
// Given packages or files alone, the others stay as they are in the record: for machines that are lent for minutes. What each file ran on is told by digests.
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join, relative, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { gpuTestParts, testDigest } from './gpu-test-files.mjs';
import { sourcesDigest } from './sources-digest.mjs';

const COUNTS = ['passed', 'failed', 'skipped', 'cases', 'seconds'];
const root = fileURLToPath(new URL('../../../', import.meta.url));
const parts = gpuTestParts();
const known = [...Object.keys(parts), ...Object.values(parts).flat()];
const asked = process.argv.slice(2);
const isTarget = (argument) => argument.endsWith('.json');
const target = resolve(root, asked.find(isTarget) ?? 'docs/results/h200/gpu-tests.json');
const named = asked.filter((argument) => !isTarget(argument));
const unknown = named.filter((one) => !known.includes(one));
if (unknown.length > 0) throw new Error(`Expected some of ${known.join(', ')}, got ${unknown.join(', ')}`);

const smi = spawnSync('nvidia-smi', ['--query-gpu=name,driver_version', '--format=csv,noheader'], { encoding: 'utf8' });
if (smi.status !== 0) throw new Error('Expected a GPU host: nvidia-smi did not run');
const [gpu, driver] = smi.stdout.trim().split('\n')[0].split(', ');

const before = named.length > 0 && existsSync(target) ? JSON.parse(readFileSync(target, 'utf8')) : {};
const files = { ...before.files };
for (const [part, all] of Object.entries(parts)) {
  const wanted = all.filter((file) => named.length === 0 || named.includes(part) || named.includes(file));
  if (wanted.length > 0) Object.assign(files, run(part, wanted));
}
for (const file of Object.keys(files)) if (!known.includes(file)) delete files[file];
const total = (name) => Object.values(files).reduce((sum, file) => sum + file[name], 0);
const digests = new Set(Object.values(files).map((file) => file.sourcesDigest));
const record = {
  ...Object.fromEntries(COUNTS.map((name) => [name, Math.round(total(name))])),
  gpu,
  driver,
  sourcesDigest: digests.size === 1 ? [...digests][0] : 'differs from file to file',
  files: Object.fromEntries(Object.entries(files).sort(([a], [b]) => (a < b ? -1 : 1))),
};
mkdirSync(dirname(target), { recursive: true });
writeFileSync(target, `${JSON.stringify(record, null, 2)}\n`);
process.stdout.write(`${JSON.stringify({ ...record, files: Object.keys(files).length })}\n`);
process.exitCode = record.failed > 0 ? 1 : 0;

/** These files of a package: what came of each. */
function run(part, wanted) {
  const report = join(tmpdir(), `gpu-tests-${process.pid}-${part.replaceAll('/', '-')}.json`);
  const { status } = spawnSync(
    process.execPath,
    [
      'node_modules/vitest/vitest.mjs',
      'run',
      '--project',
      'gpu',
      ...wanted,
      '--reporter=json',
      `--outputFile=${report}`,
    ],
    { cwd: root, stdio: 'inherit', env: { ...process.env, REQUIRE_CUDA: '1' } },
  );
  const results = existsSync(report) ? JSON.parse(readFileSync(report, 'utf8')).testResults : [];
  const ran = new Map(results.map((file) => [relative(root, file.name).replaceAll('\\', '/'), file]));
  const outcomes = Object.fromEntries(wanted.map((file) => [file, outcomeOf(file, ran.get(file))]));
  // A process that broke down after its tests had passed is no success.
  if (status !== 0 && Object.values(outcomes).every(({ failed }) => failed === 0)) outcomes[wanted[0]].failed++;
  return outcomes;
}

function outcomeOf(
  file,
  { assertionResults: tests, startTime, endTime } = { assertionResults: [], startTime: 0, endTime: 0 },
) {
  for (const { fullName, failureMessages } of tests.filter((test) => test.status === 'failed'))
    process.stdout.write(`failed: ${fullName}\n${failureMessages.join('\n').slice(0, 600)}\n`);
  const count = (status) => tests.filter((test) => test.status === status).length;
  const [passed, failed] = [count('passed'), count('failed')];
  return {
    passed,
    failed: tests.length === 0 ? 1 : failed, // a file that did not even load
    skipped: tests.length - passed - failed,
    // A test whose name says "480 cases" runs that many; any other is one.
    cases: tests.reduce((sum, test) => sum + Number(/(\d+) cases$/.exec(test.title)?.[1] ?? 1), 0),
    seconds: Math.round((endTime - startTime) / 100) / 10,
    testDigest: testDigest(file),
    sourcesDigest: sourcesDigest(),
  };
}
