import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import os from 'node:os';
import type { BackendStatus } from '@int-flash/ops';
import { shippedModel } from './model-folder.js';
import type { BackendReport, Runtime } from './runtime.js';
import { VERSION } from './version.js';

/** Instruction sets that decide which kernels can run, by their names in /proc/cpuinfo. */
const FEATURES =
  /^(sse4_2|avx|avx2|fma|f16c|avx_vnni|avx_vnni_int8|avx512(f|bw|dq|vl|_vnni)|amx_int8|asimd|asimddp|i8mm|sve2?)$/;

const ADDON = /int_flash_\w+\.node$/;
const VARIABLE = /^(INT_FLASH_|INTFLASH_)/;
/** A report is pasted where everybody reads it. */
const SECRET = /KEY|TOKEN|SECRET|PASSWORD/;

/** The part of Node's diagnostic report that is used. */
interface ProcessReport {
  readonly header?: { readonly glibcVersionRuntime?: string };
  readonly sharedObjects?: readonly string[];
}

export interface DoctorReport {
  readonly versions: Readonly<Record<string, string>>;
  readonly os: {
    readonly platform: string;
    readonly release: string;
    readonly arch: string;
    readonly libc: string | null;
  };
  readonly cpu: { readonly model: string; readonly logicalCores: number; readonly features: readonly string[] };
  /** `limitBytes`: what a container allows, where one does. */
  readonly memory: { readonly totalBytes: number; readonly freeBytes: number; readonly limitBytes: number | null };
  readonly gpu: { readonly devices: readonly string[]; readonly driver: string | null };
  readonly backends: readonly BackendStatus[];
  readonly supportedIsas: readonly string[];
  readonly auto: BackendReport['auto'];
  /** Native addons of this project that are loaded in this process, by their files. */
  readonly addons: readonly string[];
  /** This project's environment variables that are set. */
  readonly environment: Readonly<Record<string, string>>;
  readonly demoModel: string | null;
}

export async function doctorReport(runtime: Runtime, env: NodeJS.ProcessEnv): Promise<DoctorReport> {
  const { backends, supportedIsas, auto } = await runtime.describeBackends(); // loads the addons
  const processors = os.cpus();
  const { node, napi, v8 } = process.versions;
  const report = process.report?.getReport() as ProcessReport | undefined;
  return {
    versions: { 'int-flash': VERSION, node, 'node-api': napi ?? '', v8 },
    os: { platform: process.platform, release: os.release(), arch: process.arch, libc: libc(report) },
    cpu: {
      model: processors[0]?.model.trim() ?? 'unknown',
      logicalCores: os.availableParallelism(),
      features: cpuFeatures(),
    },
    memory: { totalBytes: os.totalmem(), freeBytes: os.freemem(), limitBytes: memoryLimit() },
    gpu: { devices: gpuDevices(), driver: gpuDriver() },
    backends,
    supportedIsas,
    auto,
    addons: (report?.sharedObjects ?? []).filter((path) => ADDON.test(path)),
    environment: Object.fromEntries(
      Object.entries(env).flatMap(([name, value]) =>
        VARIABLE.test(name) && value ? [[name, SECRET.test(name) ? '(set)' : value]] : [],
      ),
    ),
    demoModel: shippedModel() ?? null,
  };
}

function cpuFeatures(): string[] {
  const lines = readIfThere('/proc/cpuinfo').split('\n');
  const flags = lines.find((line) => /^(flags|Features)\s*:/.test(line)) ?? '';
  return flags.split(/\s+/).filter((flag) => FEATURES.test(flag));
}

/** `glibc 2.36`, `musl`, or null where that is no question. */
function libc(report: ProcessReport | undefined): string | null {
  if (process.platform !== 'linux') return null;
  const version = report?.header?.glibcVersionRuntime;
  return version ? `glibc ${version}` : 'musl';
}

/** Of the control group; Node gives 0, or more than there is, where there is none. */
function memoryLimit(): number | null {
  const limit = process.constrainedMemory?.() ?? 0;
  return limit > 0 && limit < os.totalmem() ? limit : null;
}

function gpuDriver(): string | null {
  return /Kernel Module[^\n]*?\s(\d+\.[\d.]+)\s/.exec(readIfThere('/proc/driver/nvidia/version'))?.[1] ?? null;
}

function gpuDevices(): string[] {
  const listing = spawnSync('nvidia-smi', ['-L'], { encoding: 'utf8', timeout: 5000 });
  if (listing.status !== 0) return [];
  return listing.stdout.split('\n').flatMap((line) => /^GPU \d+: (.*?) \(UUID/.exec(line)?.[1] ?? []);
}

function readIfThere(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return '';
  }
}
