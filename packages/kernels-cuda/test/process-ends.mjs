// One way for a process to end with the GPU at work; see device-robustness.gpu.test.ts.
//   node process-ends.mjs <path of the addon> <lost | exit | natural | throw>
import { createRequire } from 'node:module';

const [path, mode] = process.argv.slice(2);
const addon = createRequire(import.meta.url)(path);
const device = addon.openDevice(0);
const outcome = (work) =>
  work.then(
    () => 'worked',
    (error) => error.code,
  );

if (mode === 'lost') {
  const buffer = await addon.upload(device, new Uint8Array(1 << 20));
  const pinned = await addon.allocatePinned(device, 1 << 20);
  const stream = addon.openStream(device);
  const codes = [await outcome(addon.fault(device))];
  codes.push(await outcome(addon.upload(device, new Uint8Array(4))));
  codes.push(await outcome(addon.download(device, buffer, 0, new Uint8Array(4))));
  codes.push(await outcome(addon.memory(device)));
  codes.push(await outcome(addon.synchronize(device, stream)));
  for (const open of [() => addon.openStream(device), () => addon.openDevice(0)]) {
    try {
      open();
      codes.push('worked');
    } catch (error) {
      codes.push(error.code);
    }
  }
  addon.disposeBuffer(buffer);
  addon.disposePinned(pinned.handle, pinned.memory);
  addon.closeStream(stream);
  process.stdout.write(JSON.stringify({ codes, liveBytes: addon.liveBytes(device) }));
} else {
  for (let i = 0; i < 16; i++) addon.upload(device, new Uint8Array(8 << 20)).catch(() => {});
  if (mode === 'exit') process.exit(7);
  if (mode === 'throw') throw new Error('on purpose');
}
