// A worker thread that keeps a device busy until it is terminated; see device-robustness.gpu.test.ts.
import { createRequire } from 'node:module';
import { parentPort, workerData } from 'node:worker_threads';

const addon = createRequire(import.meta.url)(workerData.path);
const device = addon.openDevice(0);
const stream = addon.openStream(device);
await addon.upload(device, new Uint8Array(1));
parentPort.postMessage('working');
for (;;) {
  const round = Array.from({ length: 8 }, (_, i) =>
    addon.upload(device, new Uint8Array(4 << 20), i % 2 === 0 ? stream : undefined),
  );
  for (const buffer of await Promise.all(round)) addon.disposeBuffer(buffer);
}
