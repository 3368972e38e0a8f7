// `npm run soak`: the long forms of what the server and the library promise, each a piece of at most three minutes on two cores.
//   npm run soak                    all pieces, in order
//   npm run soak -- load fuzz       these
// Prints what it found, writes docs/results/cpu/soak.jsonl, and ends with 1 if a promise did not hold.
import os from 'node:os';
import { commands } from './commands.js';
import { determinism } from './determinism.js';
import { disconnects } from './disconnects.js';
import { drain } from './drain.js';
import { eventLoop } from './event-loop.js';
import { exits } from './exits.js';
import { fairness } from './fairness.js';
import { fuzz } from './fuzz.js';
import { load } from './load.js';
import { queue } from './queue.js';
import { type Finding, record } from './record.js';
import { stalledReaders } from './stalled-readers.js';
import { steadyRequests } from './steady-requests.js';

const PIECES: Readonly<Record<string, () => Promise<Finding[]>>> = {
  load,
  requests: steadyRequests,
  fuzz,
  queue,
  disconnects,
  stalled: stalledReaders,
  determinism,
  fairness,
  drain,
  'event-loop': eventLoop,
  exits,
  commands,
};

const asked = process.argv.slice(2);
const unknown = asked.filter((name) => !Object.hasOwn(PIECES, name));
if (unknown.length > 0) {
  console.error(`Expected pieces among ${Object.keys(PIECES).join(', ')}; got ${unknown.join(', ')}`);
  process.exit(2);
}

let holds = true;
for (const name of asked.length > 0 ? asked : Object.keys(PIECES)) {
  const started = performance.now();
  const [loadBefore] = os.loadavg();
  console.log(`${name} …`);
  const findings = await PIECES[name]!();
  const seconds = Math.round((performance.now() - started) / 100) / 10;
  for (const { what, value, bound, unit } of findings) {
    const isKept = bound === undefined || value <= bound;
    holds &&= isKept;
    const promise = bound === undefined ? '' : ` (promised: at most ${bound})`;
    console.log(`  ${isKept ? '✓' : '✗'} ${what}: ${value} ${unit}${promise}`);
  }
  record(name, seconds, loadBefore!, findings);
}
process.exitCode = holds ? 0 : 1;
