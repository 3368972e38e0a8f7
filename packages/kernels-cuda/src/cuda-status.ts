import { type BackendStatus, checkInteger, IntFlashError, readArguments, type UnavailableReason } from '@int-flash/ops';
import { type LoadedAddon, loadNativeAddon, type Probe } from './native-addon.js';

const MAX_ORDINAL = 63; // as native/device.cc counts
const MINIMUM = 80; // the kernels use mma.sync on INT8 with cp.async, which arrived with compute capability 8.0

let known: Probe | undefined; // drivers and devices do not come and go while a process lives

/**
 * Whether attention can run on an NVIDIA GPU here, and if not, why. Never throws for what the machine lacks. The first call asks the driver, the
 * others remember what it said.
 *
 * @param ordinal which GPU of several, as CUDA counts them.
 */
export function cudaStatus(ordinal = 0): BackendStatus {
  readArguments(() => checkInteger(ordinal, 'ordinal', 0, 0, MAX_ORDINAL));
  return describeStatus(loadNativeAddon(), (addon) => (known ??= addon.probe()), ordinal);
}

/** What a status that says unavailable is thrown as. */
export function unusableGpu({ detail, reason, hint }: BackendStatus): IntFlashError {
  const loaded = loadNativeAddon();
  return new IntFlashError('ERR_UNSUPPORTED', `Expected a usable NVIDIA GPU, got none: ${detail}`, {
    ...(reason && { reason }),
    ...(hint && { hint }),
    ...(!loaded.addon && loaded.cause && { cause: loaded.cause }),
  });
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
          `The CUDA addon does not load: ${loaded.cause?.message.split('\n')[0] ?? 'no message'}`, // below follow the paths of whoever required it
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
      seen.devices.length > 0
        ? `The NVIDIA driver shows no device ${ordinal}, only ${seen.devices.length} from 0 on.`
        : `The NVIDIA driver shows no device${seen.error ? ` (${seen.error})` : ''}.`,
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
