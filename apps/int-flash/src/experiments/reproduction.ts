import os from 'node:os';
import { selectBackend } from '@int-flash/attention';
import type { InputFamily } from '@int-flash/reference';
import type { OnProgress } from '../progress-bar.js';
import type { BackendChoice, Runtime } from '../runtime.js';
import { VERSION } from '../version.js';
import { type ErrorTable, measureErrors } from './error-table.js';
import { type KvFitRow, measureKvFit } from './kv-cache-fit.js';
import { type KvFormatTable, measureKvFormats } from './kv-cache-formats.js';
import { type KvModelTable, measureKvModel } from './kv-cache-model.js';
import type { Variant } from './measure-variant.js';
import { type Claim, judgeCacheClaims, judgeClaims } from './paper-claims.js';
import { measurePerChannel, type PerChannelRow } from './per-channel-claims.js';
import { measureSpeed, type SpeedTable } from './speed-table.js';
import { runStages } from './stages.js';

export interface ReproductionSettings {
  /** About a minute on two cores instead of some minutes: fewer seeds and rows, shorter texts, one head timed. */
  readonly quick: boolean;
  readonly backend: BackendChoice;
  /** Of the model whose perplexity is measured; null leaves that out. */
  readonly model: string | null;
  readonly signal: AbortSignal;
}

/** Where and when a report was made. */
export interface ReportOrigin {
  readonly version: string;
  readonly date: string;
  readonly cpu: string;
  readonly threads: number;
  readonly backend: string;
  readonly quick: boolean;
}

export interface KvCacheReport {
  readonly origin: ReportOrigin;
  readonly formats: KvFormatTable;
  readonly perChannel: readonly PerChannelRow[];
  readonly kvModel: KvModelTable | null;
  readonly kvFit: readonly KvFitRow[] | null;
  readonly claims: readonly Claim[];
}

export interface ReproductionReport extends KvCacheReport {
  readonly speed: SpeedTable;
  /** Scale 1/√headDim, 4,096 keys. */
  readonly errors: ErrorTable;
  /** The paper's script: scale 1, head dimension 64. */
  readonly script: ErrorTable;
}

/** Ours and the paper's, on everything that attention's accuracy is judged on. */
const DISTRIBUTIONS: readonly InputFamily[] = [
  'normal',
  'uniform',
  'centred',
  'sharp',
  'kbias',
  'vout',
  'sink',
  'sinkall',
];
const VARIANTS: readonly Variant[] = [
  'full-int8',
  'half-int8',
  'paper-int8',
  'paper-half-int8',
  'int4-qk',
  'fp8-e4m3',
  'fp8-e5m2',
  'flash-d',
  'fp32',
];
const SCRIPT_DISTRIBUTIONS: readonly InputFamily[] = ['uniform', 'centred', 'normal'];
const SCRIPT_VARIANTS: readonly Variant[] = [
  'paper-int8',
  'paper-half-int8',
  'full-int8',
  'half-int8',
  'fp8-e5m2-stored',
  'fp8-e5m2',
  'flash-d',
];

/**
 * What a minute on two cores has room for: of texts, two windows of tokens, or half of one where there is no native code; of a cache, two of the
 * shipped model's sequences in fp16, or less than one: then nothing is filled.
 */
function quickScope(backend: BackendChoice) {
  const isPortable = selectBackend(backend).name === 'portable';
  return isPortable
    ? { characters: 2048, speedMs: 4000, memoryBytes: 0 }
    : { characters: 8192, speedMs: 15_000, memoryBytes: 2 ** 23 };
}

const FULL_MEMORY = 2 ** 25; // eight sequences in fp16

/** Measures everything the report shows, none of it remembered from another run. */
export async function reproduce(
  runtime: Runtime,
  settings: ReproductionSettings,
  onProgress: OnProgress,
): Promise<ReproductionReport> {
  const { quick, backend, signal } = settings;
  const [speed, errors, script, kvCache] = await runStages(
    [
      {
        weight: quick ? 15 : 60,
        run: (onPart) =>
          measureSpeed(
            {
              backend,
              heads: quick ? 4 : 8,
              headDim: 64,
              budgetMs: quick ? quickScope(backend).speedMs : 90_000,
              signal,
            },
            onPart,
          ),
      },
      {
        weight: quick ? 12 : 45,
        run: (onPart) =>
          measureErrors(
            {
              backend,
              distributions: DISTRIBUTIONS,
              variants: VARIANTS,
              keys: [4096],
              heads: 1,
              queries: quick ? 32 : 64,
              headDim: 128,
              scale: 1 / Math.sqrt(128),
              seeds: quick ? 1 : 2,
              signal,
            },
            onPart,
          ),
      },
      {
        weight: quick ? 8 : 45,
        run: (onPart) =>
          measureErrors(
            {
              backend,
              distributions: SCRIPT_DISTRIBUTIONS,
              variants: SCRIPT_VARIANTS,
              keys: quick ? [1024, 2048, 4096] : [1024, 2048, 4096, 8192, 16384],
              heads: 1,
              queries: quick ? 32 : 64,
              headDim: 64,
              scale: 1,
              seeds: quick ? 2 : 4,
              signal,
            },
            onPart,
          ),
      },
      { weight: quick ? 25 : 160, run: (onPart) => reproduceKvCache(runtime, settings, onPart) },
    ] as const,
    onProgress,
  );
  const claims = judgeClaims({ ...kvCache, speed, errors, script });
  return { ...kvCache, claims, speed, errors, script };
}

/** The part about the KV cache alone. */
export async function reproduceKvCache(
  runtime: Runtime,
  { quick, backend, model, signal }: ReproductionSettings,
  onProgress: OnProgress,
): Promise<KvCacheReport> {
  const [formats, perChannel, kvModel, kvFit] = await runStages(
    [
      {
        weight: 3,
        run: (onPart) => measureKvFormats({ tokens: 2048, headDim: 128, queries: quick ? 32 : 128 }, signal, onPart),
      },
      { weight: 5, run: (onPart) => measurePerChannel(quick ? 512 : 1024, signal, onPart) },
      {
        weight: quick ? 17 : 150,
        run: async (onPart) =>
          model === null
            ? null
            : measureKvModel(
                runtime,
                { folder: model, backend, signal, ...(quick && { characters: quickScope(backend).characters }) },
                onPart,
              ),
      },
      {
        weight: quick ? 8 : 30,
        run: async (onPart) =>
          model === null
            ? null
            : measureKvFit(
                runtime,
                { folder: model, backend, signal, memoryBytes: quick ? quickScope(backend).memoryBytes : FULL_MEMORY },
                onPart,
              ),
      },
    ] as const,
    onProgress,
  );
  const claims = judgeCacheClaims({ perChannel, kvModel, kvFit });
  return { origin: describeOrigin(backend, quick), formats, perChannel, kvModel, kvFit, claims };
}

function describeOrigin(choice: BackendChoice, quick: boolean): ReportOrigin {
  const backend = selectBackend(choice);
  const { isa, threads } = backend.status();
  return {
    version: VERSION,
    date: new Date().toISOString().slice(0, 10),
    cpu: os.cpus()[0]?.model.trim() ?? 'unknown',
    threads: threads ?? 1,
    backend: isa ? `${backend.name} (${isa})` : backend.name,
    quick,
  };
}
