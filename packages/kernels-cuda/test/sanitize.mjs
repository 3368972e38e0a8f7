// Runs compute-sanitizer's four tools over the scripts below, prints a line of JSON a tool, and fails on any report (to stderr).
//   node packages/kernels-cuda/test/sanitize.mjs [tool ...]
import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';

const TOOLS = {
  memcheck: { flags: ['--leak-check', 'full'], clean: [/ERROR SUMMARY: 0 errors/, /LEAK SUMMARY: 0 bytes leaked/] },
  racecheck: { flags: [], clean: [/RACECHECK SUMMARY: 0 hazards displayed \(0 errors, 0 warnings\)/] },
  initcheck: { flags: [], clean: [/ERROR SUMMARY: 0 errors/] },
  synccheck: { flags: [], clean: [/ERROR SUMMARY: 0 errors/] },
};
const SCRIPTS = ['sanitizer-shapes.mjs', 'sanitizer-decoder.mjs'];
const MINUTES = 9.5; // what a tool may take

const asked = process.argv.slice(2);
const unknown = asked.filter((tool) => !Object.hasOwn(TOOLS, tool));
if (unknown.length > 0)
  throw new Error(`Expected tools among ${Object.keys(TOOLS).join(', ')}, got ${unknown.join(', ')}`);

let dirty = 0;
for (const tool of asked.length > 0 ? asked : Object.keys(TOOLS)) {
  const { flags, clean } = TOOLS[tool];
  const started = performance.now();
  const summaries = [];
  const reports = [];
  for (const script of SCRIPTS) {
    const left = MINUTES * 60_000 - (performance.now() - started);
    const { status, error, stdout, stderr } = spawnSync(
      'compute-sanitizer',
      ['--tool', tool, ...flags, process.execPath, fileURLToPath(new URL(script, import.meta.url))],
      { encoding: 'utf8', timeout: Math.max(Math.ceil(left), 1), maxBuffer: 2 ** 28 },
    );
    const output = `${stdout ?? ''}${stderr ?? ''}`;
    const said = output.split('\n').filter((line) => /SUMMARY|shapes|steps/.test(line));
    summaries.push(...said.map((line) => line.replace(/^=+ */, '').trim()));
    if (status !== 0 || !clean.every((line) => line.test(output)))
      reports.push(`${script}: ${error?.message ?? `exit code ${status}`}\n${output.slice(0, 10_000)}`);
  }
  const seconds = Math.round((performance.now() - started) / 1000);
  process.stdout.write(`${JSON.stringify({ tool, clean: reports.length === 0, seconds, summaries })}\n`);
  for (const report of reports) process.stderr.write(`${report}\n`);
  if (reports.length > 0) dirty++;
}
process.exitCode = dirty > 0 ? 1 : 0;
