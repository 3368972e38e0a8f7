// A worker for native-lifecycle.test.ts: loads the addon and keeps it busy in the way workerData says, until it is stopped.
import { parentPort, workerData } from 'node:worker_threads';
import { attentionCall, loadAddon } from '../bench/raw-calls.mjs';

const addon = loadAddon();
const { args, outLength } = attentionCall(
  { precision: 'full-int8', B: 1, H: 2, Hkv: 2, Nq: 200, Nk: 200, D: 64 },
  { isa: 0, threads: 2 },
);
const out = new Float32Array(outLength);
parentPort.postMessage('ready');
if (workerData === 'sync') for (;;) addon.attention(...args, out, undefined);
if (workerData === 'throw') {
  addon.attentionAsync(1, ...args, outLength, -1);
  throw new Error('on purpose');
}
if (workerData === 'exit') {
  addon.attentionAsync(1, ...args, outLength, -1);
  process.exit(0);
}
for (let id = 0; ; id++)
  await Promise.all([
    addon.attentionAsync(id, ...args, outLength, -1),
    addon.attentionAsync(id, ...args, outLength, -1),
  ]);
