// Run by native-lifecycle.test.ts in a process of its own: how many pages the system maps for a result, once as many were taken and freed
// before. Prints {"faults", "pages"}, the latter of one result.
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { attentionCall, loadAddon } from '../bench/raw-calls.mjs';

const RESULTS = 12;
const ROUNDS = 20;
setFlagsFromString('--expose-gc');
const collect = runInNewContext('gc');
const addon = loadAddon();
const { args, outLength } = attentionCall(
  { precision: 'full-int8', B: 1, H: 8, Hkv: 8, Nq: 512, Nk: 16, D: 8, Dv: 256 },
  { isa: 0, threads: 1 },
);
const attend = () => {
  const out = new Float32Array(Buffer.allocUnsafeSlow(4 * outLength).buffer); // as the backend takes it
  addon.attention(...args, out, undefined);
  return out;
};
let before = 0;
for (let round = 0; round <= ROUNDS; round++) {
  if (round === 1) before = process.resourceUsage().minorPageFault;
  const kept = Array.from({ length: RESULTS }, attend);
  kept.length = 0;
  collect();
}
const faults = (process.resourceUsage().minorPageFault - before) / (RESULTS * ROUNDS);
process.stdout.write(`${JSON.stringify({ faults, pages: (4 * outLength) / 4096 })}\n`);
