// Runs compute-sanitizer's four tools over the scripts below, prints a line of JSON a tool, and fails on any report (to stderr).
//   node packages/kernels-cuda/test/sanitize.mjs [tool ...]
// The scripts of a tool run at the same time: racecheck takes half a minute for one decoder. Where cuBLASLt multiplies, races count in this project's kernels only.
import { spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { sourcesDigest } from './sources-digest.mjs';

const TOOLS = {
  memcheck: { flags: ['--leak-check', 'full'], clean: [/ERROR SUMMARY: 0 errors/, /LEAK SUMMARY: 0 bytes leaked/] },
  racecheck: { flags: [], clean: [/RACECHECK SUMMARY: 0 hazards displayed \(0 errors, 0 warnings\)/] },
  initcheck: { flags: [], clean: [/ERROR SUMMARY: 0 errors/] },
  synccheck: { flags: [], clean: [/ERROR SUMMARY: 0 errors/] },
};
const SCRIPTS = [
  ...['short', 'long', 'types', 'irregular', 'rest'].map((part) => ['sanitizer-shapes.mjs', part]),
  ['sanitizer-linear.mjs', 'own'],
  ['sanitizer-linear.mjs', 'library'],
  ...[0, 1, 2, 3, 4, 5, 6, 8].map((index) => ['sanitizer-decoder.mjs', `${index}`]),
  ['sanitizer-decoder.mjs', '7', 'library'],
];
const MINUTES = 9.5; // what a tool may take

const asked = process.argv.slice(2);
const unknown = asked.filter((tool) => !Object.hasOwn(TOOLS, tool));
if (unknown.length > 0)
  throw new Error(`Expected tools among ${Object.keys(TOOLS).join(', ')}, got ${unknown.join(', ')}`);

let dirty = 0;
for (const tool of asked.length > 0 ? asked : Object.keys(TOOLS)) {
  const started = performance.now();
  const runs = await Promise.all(SCRIPTS.map((script) => watch(tool, script)));
  const seconds = Math.round((performance.now() - started) / 1000);
  const reports = runs.flatMap(({ report }) => report ?? []);
  const summaries = runs.flatMap((run) => run.summaries);
  process.stdout.write(
    `${JSON.stringify({ check: tool, clean: reports.length === 0, seconds, summaries: counted(summaries), sourcesDigest: sourcesDigest() })}\n`,
  );
  for (const report of reports) process.stderr.write(`${report}\n`);
  if (reports.length > 0) dirty++;
}
process.exitCode = dirty > 0 ? 1 : 0;

/** What `tool` says about a script: lines that sum up, and all it said where that is not clean. */
function watch(tool, [script, ...args]) {
  // What cuBLASLt keeps until the process ends is no leak of ours, what it asks the driver in vain no error, and how its kernels share memory no race.
  const isLibrarys = args.includes('library');
  const flags = !isLibrarys ? TOOLS[tool].flags : tool === 'memcheck' ? ['--report-api-errors', 'no'] : [];
  const clean = TOOLS[tool].clean.filter((line) => !isLibrarys || !/LEAK|RACECHECK/.test(line.source));
  const file = fileURLToPath(new URL(script, import.meta.url));
  const child = spawn('compute-sanitizer', ['--tool', tool, ...flags, process.execPath, file, ...args], {
    stdio: ['ignore', 'pipe', 'pipe'],
    timeout: MINUTES * 60_000,
  });
  let output = '';
  for (const stream of [child.stdout, child.stderr]) stream.setEncoding('utf8').on('data', (text) => (output += text));
  return new Promise((resolve) => {
    const done = (how) => {
      const said = output.split('\n').filter((line) => /SUMMARY|^\d+ (shapes|products|steps)$/.test(line));
      const isOurs = /(Race|hazard) .*intflash/i.test(output);
      const isClean = how === 0 && !isOurs && /SUMMARY/.test(output) && clean.every((line) => line.test(output));
      resolve({
        summaries: said.map((line) =>
          line
            .replace(/^=+ */, '')
            .replace(/^(RACECHECK SUMMARY: [1-9].*)$/, '$1, in kernels of cuBLASLt')
            .trim(),
        ),
        ...(!isClean && { report: `${[script, ...args].join(' ')}: ${how}\n${output.slice(0, 10_000)}` }),
      });
    };
    child.on('error', (error) => done(error.message));
    child.on('close', (code, signal) => done(code ?? signal));
  });
}

/** Each line once; numbers of shapes, products and steps added up. */
function counted(lines) {
  const totals = new Map();
  for (const line of lines) {
    const [, count, what] = /^(\d+) (shapes|products|steps)$/.exec(line) ?? [];
    if (what) totals.set(what, (totals.get(what) ?? 0) + Number(count));
  }
  return [
    ...[...totals].map(([what, count]) => `${count} ${what}`),
    ...new Set(lines.filter((line) => /SUMMARY/.test(line))),
  ];
}
