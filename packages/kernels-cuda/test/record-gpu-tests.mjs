// Runs the GPU tests of this package and writes docs/results/h200/gpu-tests.json (or the path given as argument).
//   REQUIRE_CUDA=1 node packages/kernels-cuda/test/record-gpu-tests.mjs [target.json]
import { spawnSync } from 'node:child_process';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { sourcesDigest } from './sources-digest.mjs';

const root = fileURLToPath(new URL('../../../', import.meta.url));
const target = resolve(root, process.argv[2] ?? 'docs/results/h200/gpu-tests.json');
const report = join(tmpdir(), `gpu-tests-${process.pid}.json`);
const started = performance.now();
const args = [
  'node_modules/vitest/vitest.mjs',
  'run',
  '--project',
  'gpu',
  'packages/kernels-cuda',
  '--reporter=json',
  `--outputFile=${report}`,
];
const { status } = spawnSync(process.execPath, args, {
  cwd: root,
  stdio: 'inherit',
  env: { ...process.env, REQUIRE_CUDA: '1' },
});
const seconds = Math.round((performance.now() - started) / 1000);
const tests = JSON.parse(readFileSync(report, 'utf8')).testResults.flatMap((file) => file.assertionResults);
for (const { fullName, failureMessages } of tests.filter((test) => test.status === 'failed'))
  process.stdout.write(`failed: ${fullName}\n${failureMessages.join('\n').slice(0, 600)}\n`);
const count = (wanted) => tests.filter((test) => test.status === wanted).length;
// A test whose name says "480 cases" runs that many; any other is one.
const cases = tests.reduce((sum, test) => sum + Number(/(\d+) cases$/.exec(test.title)?.[1] ?? 1), 0);
const [gpu, driver] = spawnSync('nvidia-smi', ['--query-gpu=name,driver_version', '--format=csv,noheader'], {
  encoding: 'utf8',
})
  .stdout.trim()
  .split(', ');
const record = {
  passed: count('passed'),
  failed: count('failed') + (status !== 0 && count('failed') === 0 ? 1 : 0),
  skipped: tests.length - count('passed') - count('failed'),
  cases,
  seconds,
  gpu,
  driver,
  sourcesDigest: sourcesDigest(),
};
mkdirSync(dirname(target), { recursive: true });
writeFileSync(target, `${JSON.stringify(record, null, 2)}\n`);
process.stdout.write(`${JSON.stringify(record)}\n`);
process.exitCode = record.failed > 0 ? 1 : 0;
