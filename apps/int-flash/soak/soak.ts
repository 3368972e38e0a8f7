// `npm run soak`: the long forms of what the server and the library promise, each a piece of at most three minutes on two cores.
//   npm run soak                    all pieces, in order
//   npm run soak -- load fuzz       these
// Prints what it found, writes docs/results/cpu/soak.jsonl, and ends with 1 if a promise did not hold.
import { spawnSync } from 'node:child_process';
import os from 'node:os';
import { fileURLToPath } from 'node:url';
import { type Finding, record } from './record.js';

// Loaded one by one: what the fuzzer keeps in memory, say, would lengthen every garbage collection of the piece on the event loop.
const PIECES: Readonly<Record<string, () => Promise<() => Promise<Finding[]>>>> = {
  load: async () => (await import('./load.js')).load,
  requests: async () => (await import('./steady-requests.js')).steadyRequests,
  fuzz: async () => (await import('./fuzz.js')).fuzz,
  guards: async () => (await import('./guards.js')).guards,
  limits: async () => (await import('./limits.js')).limits,
  fetching: async () => (await import('./fetching.js')).fetching,
  privacy: async () => (await import('./privacy.js')).privacy,
  page: async () => (await import('./page.js')).page,
  queue: async () => (await import('./queue.js')).queue,
  disconnects: async () => (await import('./disconnects.js')).disconnects,
  stalled: async () => (await import('./stalled-readers.js')).stalledReaders,
  determinism: async () => (await import('./determinism.js')).determinism,
  fairness: async () => (await import('./fairness.js')).fairness,
  drain: async () => (await import('./drain.js')).drain,
  'event-loop': async () => (await import('./event-loop.js')).eventLoop,
  exits: async () => (await import('./exits.js')).exits,
  commands: async () => (await import('./commands.js')).commands,
};

const asked = process.argv.slice(2);
const unknown = asked.filter((name) => !Object.hasOwn(PIECES, name));
if (unknown.length > 0) {
  console.error(`Expected pieces among ${Object.keys(PIECES).join(', ')}; got ${unknown.join(', ')}`);
  process.exit(2);
}

const names = asked.length > 0 ? asked : Object.keys(PIECES);
const [only] = names;
process.exitCode = names.length === 1 ? await run(only!) : names.map(runAlone).some((status) => status !== 0) ? 1 : 0;

/** A process for each piece, so that none measures what another left behind. */
function runAlone(name: string): number {
  return spawnSync(process.execPath, [fileURLToPath(import.meta.url), name], { stdio: 'inherit' }).status ?? 1;
}

async function run(name: string): Promise<number> {
  const piece = await PIECES[name]!();
  const started = performance.now();
  const [loadBefore] = os.loadavg();
  console.log(`${name} …`);
  const findings = await piece();
  const seconds = Math.round((performance.now() - started) / 100) / 10;
  let holds = true;
  for (const { what, value, bound, unit } of findings) {
    const isKept = bound === undefined || value <= bound;
    holds &&= isKept;
    const promise = bound === undefined ? '' : ` (promised: at most ${bound})`;
    console.log(`  ${isKept ? '✓' : '✗'} ${what}: ${value} ${unit}${promise}`);
  }
  record(name, seconds, loadBefore!, findings);
  return holds ? 0 : 1;
}
