import type { BackendStatus, UnavailableReason } from '@int-flash/ops';
import { type LoadedAddon, loadNativeAddon, type Probe } from './native-addon.js';

const MINIMUM = 80; // the kernels use mma.sync on INT8 with cp.async, which arrived with compute capability 8.0

let known: Probe | undefined; // drivers and devices do not come and go while a process lives

/** Whether attention can run on an NVIDIA GPU here, and if not, why. Never throws; costs a few milliseconds on the first call. */
export function cudaStatus(): BackendStatus {
  return deviceStatus(0);
}

/** {@link cudaStatus} of one GPU of several. */
export function deviceStatus(ordinal: number): BackendStatus {
  return describeStatus(loadNativeAddon(), (addon) => (known ??= addon.probe()), ordinal);
}

/** {@link cudaStatus} from what was loaded and seen, so that every answer can be tested without the machine it is about. */
export function describeStatus(
  loaded: LoadedAddon,
  probe: (addon: NonNullable<LoadedAddon['addon']>) => Probe,
  ordinal = 0,
): BackendStatus {
  if (!loaded.addon) {
    return loaded.reason === 'addon-not-installed'
      ? unavailable(
          'addon-not-installed',
          'The CUDA addon is not here.',
          'On Linux with x64 install @int-flash/kernels-cuda-linux-x64, which --omit=optional leaves out; else build it in a checkout with `npm run build` (CUDA 13), or point INTFLASH_CUDA_ADDON_PATH at a built one.',
        )
      : unavailable(
          'addon-load-failed',
          `The CUDA addon does not load: ${loaded.cause?.message ?? 'no message'}`,
          /GLIBC_/.test(loaded.cause?.message ?? '')
            ? 'The compiled addon needs glibc 2.28 or later. In a checkout `npm run build` makes one for this machine.'
            : 'Rebuild it on this machine with `npm run build`.',
        );
  }
  const seen = probe(loaded.addon);
  if (seen.driverVersion === 0) {
    return unavailable(
      'driver-missing',
      'No NVIDIA driver is installed.',
      'Install the NVIDIA driver, or use the CPU backend.',
    );
  }
  if (seen.error === 'cudaErrorInsufficientDriver') {
    return unavailable(
      'driver-too-old',
      `The NVIDIA driver supports CUDA ${version(seen.driverVersion)}; the addon needs ${version(seen.runtimeVersion)}.`,
      'Update the NVIDIA driver.',
    );
  }
  const device = seen.devices[ordinal];
  if (!device) {
    return unavailable(
      'no-device',
      `The NVIDIA driver shows no device${seen.error ? ` (${seen.error})` : ''}.`,
      'Check `nvidia-smi` and CUDA_VISIBLE_DEVICES.',
    );
  }
  const isa = `sm_${device.major}${device.minor}`;
  if (!isBuiltFor(seen.architectures, device)) {
    return unavailable(
      'arch-not-built',
      `The addon was not built for ${device.name} (${isa}), only for ${seen.architectures}.`,
      device.major * 10 + device.minor < MINIMUM
        ? 'GPUs before compute capability 8.0 are not supported; use the CPU backend.'
        : 'Rebuild it with this architecture in CUDAARCHS.',
    );
  }
  return {
    name: 'cuda',
    available: true,
    detail: `${device.name} (${isa}, ${Math.round(device.totalBytes / 1e9)} GB), CUDA ${version(seen.driverVersion)} driver`,
    isa,
  };
}

/**
 * A cubin runs on its own major version from its minor version on, or, marked `a`, on exactly its own; PTX is compiled by the
 * driver for anything later.
 *
 * @param architectures as CMake spells them, separated by blanks: `80-real 90a-real 80-virtual`.
 */
export function isBuiltFor(architectures: string, device: { readonly major: number; readonly minor: number }): boolean {
  const capability = device.major * 10 + device.minor;
  return architectures.split(' ').some((entry) => {
    const [, digits, exact, kind] = /^(\d+)([af]?)(?:-(real|virtual))?$/.exec(entry) ?? [];
    if (!digits) return false;
    const built = Number(digits);
    if (exact) return built === capability && kind !== 'virtual';
    const asCubin = kind !== 'virtual' && Math.floor(built / 10) === device.major && built <= capability;
    const asPtx = kind !== 'real' && built <= capability;
    return asCubin || asPtx;
  });
}

function unavailable(reason: UnavailableReason, detail: string, hint: string): BackendStatus {
  return { name: 'cuda', available: false, detail, reason, hint };
}

function version(number: number): string {
  return `${Math.floor(number / 1000)}.${Math.floor((number % 1000) / 10)}`;
}
