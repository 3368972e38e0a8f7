import { describe, expect, it } from 'vitest';
import { describeStatus, isBuiltFor } from '../src/cuda-status.js';
import type { LoadedAddon, NativeAddon, Probe } from '../src/native-addon.js';

const loaded: LoadedAddon = { addon: {} as NativeAddon, path: 'x' };
const h200 = { name: 'NVIDIA H200', major: 9, minor: 0, totalBytes: 1 };
const healthy: Probe = {
  driverVersion: 13000,
  runtimeVersion: 13000,
  architectures: '80-real 90a-real 80-virtual',
  devices: [h200],
};
const seen = (changes: Partial<Probe>) => describeStatus(loaded, () => ({ ...healthy, ...changes }));

describe('describeStatus', () => {
  it('tells each reason from the others', () => {
    const missing: LoadedAddon = { addon: undefined, reason: 'addon-not-installed', cause: undefined };
    const broken: LoadedAddon = { addon: undefined, reason: 'addon-load-failed', cause: new Error('wrong ELF class') };
    expect(describeStatus(missing, () => healthy).reason).toBe('addon-not-installed');
    expect(describeStatus(broken, () => healthy)).toMatchObject({
      reason: 'addon-load-failed',
      detail: expect.stringContaining('wrong ELF class'),
    });
    const insufficient = { error: 'cudaErrorInsufficientDriver', devices: [] };
    expect(seen({ driverVersion: 0, ...insufficient }).reason).toBe('driver-missing'); // the same CUDA status …
    expect(seen({ driverVersion: 12040, ...insufficient })).toMatchObject({
      reason: 'driver-too-old',
      detail: expect.stringContaining('12.4'),
    }); // … as this
    expect(seen({ error: 'cudaErrorNoDevice', devices: [] }).reason).toBe('no-device');
    expect(seen({ devices: [{ ...h200, major: 7, minor: 5 }] }).reason).toBe('arch-not-built');
    expect(describeStatus(loaded, () => healthy, 1)).toMatchObject({
      reason: 'no-device',
      detail: 'The NVIDIA driver shows no device 1, only 1 from 0 on.',
    });
    expect(seen({})).toMatchObject({ available: true, isa: 'sm_90' });
  });

  it.each([
    ['80-real', 8, 0, true],
    ['80-real', 8, 9, true], // same major, later minor
    ['86-real', 8, 0, false],
    ['90a-real', 9, 0, true],
    ['100a-real', 10, 3, false], // `a` is exact
    ['80-virtual', 12, 0, true], // PTX is compiled by the driver
    ['90a-virtual', 10, 0, false],
    ['80-virtual', 7, 5, false],
    ['80', 9, 0, true], // bare: cubin and PTX
  ])('%s on %i.%i: %s', (architectures, major, minor, expected) => {
    expect(isBuiltFor(architectures, { major, minor })).toBe(expected);
  });
});
