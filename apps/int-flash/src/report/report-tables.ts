import type { ErrorRow, ErrorTable } from '../experiments/error-table.js';
import type { KvFitRow } from '../experiments/kv-cache-fit.js';
import type { KvFormatTable } from '../experiments/kv-cache-formats.js';
import type { KvModelTable } from '../experiments/kv-cache-model.js';
import type { Variant } from '../experiments/measure-variant.js';
import type { Claim } from '../experiments/paper-claims.js';
import type { PerChannelRow } from '../experiments/per-channel-claims.js';
import { SPEED_KEYS, SPEED_VARIANTS, type SpeedTable } from '../experiments/speed-table.js';
import { formatBytes } from '../units.js';

/** A table as every format of the report shows it. */
export interface ReportTable {
  readonly title: string;
  /** How it was measured, in a sentence or two. */
  readonly note: string;
  readonly head: readonly string[];
  readonly rows: readonly (readonly string[])[];
  /** Columns of sentences, not of numbers. */
  readonly isText?: boolean;
}

/** What a variant is called for people. */
export const VARIANT_NAMES: Readonly<Record<Variant, string>> = {
  'full-int8': 'full-INT8, our default',
  'half-int8': 'half-INT8, ours',
  'paper-int8': "full-INT8, the paper's",
  'paper-half-int8': "half-INT8, the paper's",
  'int4-qk': 'INT4 Q and K',
  'fp8-e4m3': 'FP8 e4m3 (FlashAttention-3)',
  'fp8-e5m2': "FP8 e5m2 (the paper's script)",
  'fp8-e5m2-stored': "FP8 e5m2, output in e5m2 too (the paper's script)",
  'flash-d': 'FLASH-D, float32',
  fp32: 'float32',
};

export function claimsTable(claims: readonly Claim[]): ReportTable {
  return {
    title: 'Claims',
    note: 'What was published, what the published way gives here, and what our default gives in its place. ✓ holds, ✗ does not, – not measured here.',
    head: ['claim', 'as published, measured here', 'ours', 'why'],
    rows: claims.map((claim) => [
      `${claim.claim} (${claim.source})`,
      verdict(claim.reproducedHolds, claim.reproduced),
      verdict(claim.oursHolds, claim.ours),
      claim.why,
    ]),
    isText: true,
  };
}

function verdict(holds: boolean | null, text: string | null): string {
  return text === null ? '–' : `${holds === null ? '–' : holds ? '✓' : '✗'} ${text}`;
}

export function speedTable(speed: SpeedTable): ReportTable {
  const of = (keys: number, variant: (typeof SPEED_VARIANTS)[number]) =>
    speed.rows.find((row) => row.keys === keys && row.variant === variant);
  const name = (variant: (typeof SPEED_VARIANTS)[number]) =>
    variant === 'fp16' ? speed.baselineType : variant === 'paper-int8' ? "full-int8, the paper's" : variant;
  const missing = SPEED_VARIANTS.flatMap((variant) => {
    const first = speed.rows.find((row) => row.variant === variant && row.note);
    if (!first) return [];
    const from = first.keys === SPEED_KEYS[0] ? '' : ` from ${first.keys.toLocaleString('en-US')} tokens on`;
    return [`${name(variant)}${from}: ${first.note}.`];
  });
  return {
    title: 'Speed',
    note: [
      `${speed.device}; batch ${speed.batch}, heads ${speed.heads}, head dimension ${speed.headDim}, not causal.`,
      `Milliseconds of ${speed.timed}. FP16 is ${speed.baseline}.`,
      ...missing,
    ].join(' '),
    head: ['tokens', ...SPEED_VARIANTS.map(name), `full-int8 / ${speed.baselineType}`],
    rows: SPEED_KEYS.map((keys) => {
      const [int8, fp16] = [of(keys, 'full-int8')?.ms, of(keys, 'fp16')?.ms];
      return [
        keys.toLocaleString('en-US'),
        ...SPEED_VARIANTS.map((variant) => milliseconds(of(keys, variant)?.ms)),
        int8 && fp16 ? (int8 / fp16).toFixed(2) : '–',
      ];
    }),
  };
}

/** Relative L2 of every variant on every distribution. */
export function errorTable(table: ErrorTable): ReportTable {
  const distributions = [...new Set(table.rows.map(({ distribution }) => distribution))];
  return {
    title: 'Error on every kind of input',
    note: `Relative L2 against float64 softmax attention; ${describeErrors(table)}, ${table.rows[0]!.keys.toLocaleString('en-US')} keys, scale 1/√${table.headDim}. kbias: keys with outlier channels; vout: values with outlier channels; sink, sinkall: attention sinks.`,
    head: ['variant', ...distributions],
    rows: variantsOf(table).map((variant) => [
      VARIANT_NAMES[variant],
      ...distributions.map((distribution) =>
        significant(table.rows.find((row) => row.variant === variant && row.distribution === distribution)?.relativeL2),
      ),
    ]),
  };
}

/** The paper's two, outlier channels in K and in V, and an attention sink. */
const METRIC_INPUTS: readonly string[] = ['normal', 'uniform', 'kbias', 'vout', 'sink'];

/** The other metrics of the same table. */
export function metricsTable(table: ErrorTable): ReportTable {
  const shown = table.rows.filter(({ distribution }) => METRIC_INPUTS.includes(distribution));
  return {
    title: 'Every metric',
    note: `${describeErrors(table)}. MRE: mean relative error over all elements, and over the last four, as the paper's script has it.`,
    head: ['variant', 'inputs', 'relative L2', 'cosine', '99% of rows', 'worst element', 'MRE', 'MRE, last four'],
    rows: shown.map((row) => [
      VARIANT_NAMES[row.variant],
      row.distribution,
      significant(row.relativeL2),
      row.cosine.toFixed(6),
      significant(row.rowP99),
      significant(row.maxError),
      percent(row.mre),
      lastFour(row),
    ]),
  };
}

/** The paper's accuracy tables. */
export function scriptTable(table: ErrorTable): ReportTable {
  return {
    title: "The paper's accuracy test",
    note: `Mean relative error over all elements (and over the last four, its script's) with the script's scale of 1; ${describeErrors(table)}.`,
    head: ['variant', 'inputs', ...lengthsOf(table).map((keys) => `${keys.toLocaleString('en-US')} keys`)],
    rows: [...new Set(table.rows.map(({ distribution }) => distribution))].flatMap((distribution) =>
      variantsOf(table).map((variant) => [
        VARIANT_NAMES[variant],
        distribution,
        ...lengthsOf(table).map((keys) => {
          const row = table.rows.find(
            (candidate) =>
              candidate.keys === keys && candidate.variant === variant && candidate.distribution === distribution,
          );
          return row ? `${percent(row.mre)} (${lastFour(row)})` : '–';
        }),
      ]),
    ),
  };
}

export function kvFormatTable({ tokens, headDim, queries, rows }: KvFormatTable): ReportTable {
  return {
    title: 'KV-cache formats',
    note: `One head of ${headDim}, ${tokens.toLocaleString('en-US')} tokens, ${queries} queries. Relative L2 of what comes out of the cache, and of float64 attention on it; bytes as allocated, scales included.`,
    head: ['format', 'inputs', 'bytes a token', 'fp32 is larger by', 'keys', 'values', 'attention'],
    rows: rows.map((row) => [
      row.format,
      row.distribution,
      row.bytesPerToken.toFixed(0),
      `${row.smallerThanFp32.toFixed(2)}×`,
      significant(row.keyError),
      significant(row.valueError),
      significant(row.attentionError),
    ]),
  };
}

export function perChannelTable(rows: readonly PerChannelRow[]): ReportTable {
  return {
    title: 'INT8 per channel, the test of arXiv 2601.04719',
    note: 'K and one query drawn at random, one scale a channel; the mean of |q·k − q·k̂| is not divided by √dims there.',
    head: ['inputs', 'dimensions', 'worst element', 'score error', 'score error / √dims', 'fp32 is larger by'],
    rows: rows.map((row) => [
      row.distribution,
      row.dims.toLocaleString('en-US'),
      row.maxError.toFixed(6),
      row.scoreError.toFixed(4),
      row.scaledScoreError.toFixed(5),
      `${row.smallerThanFp32.toFixed(2)}×`,
    ]),
  };
}

export function kvModelTable({ model, window, rows }: KvModelTable): ReportTable {
  return {
    title: 'The cache in a model',
    note: `${model} on its held-out texts, ${window.toLocaleString('en-US')} tokens at a time. Bytes of one sequence's cache, as allocated.`,
    head: [
      'attention',
      'cache',
      'text',
      'tokens',
      'perplexity',
      'against fp16',
      'cache size',
      'fp32 is larger by',
      'fp16 is larger by',
    ],
    rows: rows.map((row) => [
      row.attention,
      row.kvCacheDtype,
      row.text,
      row.tokens.toLocaleString('en-US'),
      row.perplexity.toFixed(4),
      `${(100 * row.perplexityChange).toFixed(3)}%`,
      formatBytes(row.cacheBytes),
      `${row.smallerThanFp32.toFixed(2)}×`,
      `${row.smallerThanFp16.toFixed(2)}×`,
    ]),
  };
}

export function kvFitTable(rows: readonly KvFitRow[]): ReportTable {
  return {
    title: 'Sequences that a memory holds',
    note: "Sequences of full length: held at once until no more went in; or told from the bytes of their pages; or from a GPU's memory, filled with shorter ones until no more went in, and what its driver said was gone.",
    head: ['model', 'cache', 'tokens of each', 'memory', 'sequences', 'of fp16', 'how'],
    rows: rows.map((row) => [
      row.model,
      row.kvCacheDtype,
      row.tokens.toLocaleString('en-US'),
      formatBytes(row.memoryBytes),
      Number.isInteger(row.sequences) ? String(row.sequences) : row.sequences.toFixed(2),
      `${row.timesFp16.toFixed(2)}×`,
      row.how,
    ]),
  };
}

function variantsOf({ rows }: ErrorTable): Variant[] {
  return [...new Set(rows.map(({ variant }) => variant))];
}

function lengthsOf({ rows }: ErrorTable): number[] {
  return [...new Set(rows.map(({ keys }) => keys))];
}

function describeErrors({ heads, queries, headDim, seeds }: ErrorTable): string {
  const plural = (count: number, noun: string) => `${count} ${noun}${count === 1 ? '' : 's'}`;
  return `head dimension ${headDim}, ${heads * queries} rows, ${plural(seeds, 'seed')}`;
}

function lastFour({ mreLastFour: [least, largest] }: ErrorRow): string {
  return least === largest ? percent(least) : `${percent(least)} to ${percent(largest)}`;
}

function milliseconds(ms: number | null | undefined): string {
  return ms === null || ms === undefined ? '–' : ms < 100 ? ms.toPrecision(3) : ms.toFixed(0);
}

/** Three digits that count; very small errors in powers of ten. */
function significant(x: number | undefined): string {
  if (x === undefined) return '–';
  if (x !== 0 && x < 1e-4) return x.toExponential(1);
  return x.toPrecision(3);
}

function percent(ratio: number): string {
  const value = 100 * ratio;
  return `${value !== 0 && value < 1e-2 ? value.toExponential(1) : value.toPrecision(3)}%`;
}
