// Run by native-lifecycle.test.ts in a child process, whose exit code and stderr are the result: node native-lifecycle.mjs <scenario>
import { Worker } from 'node:worker_threads';
import { attentionCall, loadAddon } from '../bench/raw-calls.mjs';

const start = async (workerData) => {
  const worker = new Worker(new URL('./native-worker.mjs', import.meta.url), { workerData });
  worker.on('error', () => {}); // some throw on purpose
  const gone = new Promise((resolve) => worker.on('exit', resolve));
  await new Promise((resolve) => worker.on('message', resolve));
  return { worker, gone };
};
const busy = () => {
  const addon = loadAddon();
  const { args, outLength } = attentionCall(
    { precision: 'full-int8', B: 1, H: 4, Hkv: 4, Nq: 1500, Nk: 1500, D: 64 },
    { isa: 0, threads: 2 },
  );
  for (let id = 0; id < 4; id++) addon.attentionAsync(id, ...args, outLength, -1).catch(() => {});
};

const SCENARIOS = {
  async terminate(mode, rounds) {
    for (let i = 0; i < rounds; i += 4) {
      const workers = await Promise.all(Array.from({ length: 4 }, () => start(mode)));
      await new Promise((resolve) => setTimeout(resolve, i % 7));
      await Promise.all(workers.map(({ worker, gone }) => Promise.all([worker.terminate(), gone])));
    }
  },
  async eight() {
    const workers = await Promise.all(Array.from({ length: 8 }, () => start('async')));
    await Promise.all(workers.map(({ worker }) => worker.terminate()));
  },
  async leave(mode) {
    for (let i = 0; i < 10; i++) await (await start(mode)).gone;
  },
  exit() {
    busy();
    process.exit(7);
  },
  throw() {
    busy();
    throw new Error('on purpose');
  },
  natural: busy,
  async idle() {
    const addon = loadAddon();
    const { args, outLength } = attentionCall(
      { precision: 'full-int8', B: 1, H: 4, Hkv: 4, Nq: 300, Nk: 300, D: 64 },
      { isa: 0, threads: 4 },
    );
    addon.attention(...args, new Float32Array(outLength), undefined); // its threads must not keep the process alive
  },
};
await SCENARIOS[process.argv[2]](process.argv[3], Number(process.argv[4]));
