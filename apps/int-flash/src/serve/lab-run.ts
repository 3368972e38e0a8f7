import { setImmediate as turn } from 'node:timers/promises';
import { type AttentionPlan, type Backend, IntFlashError, judgeAttention, type Precision } from '@int-flash/ops';
import {
  cosine,
  makeInputs,
  relativeL2,
  runStepsInSlices,
  softmaxAttentionSteps,
  worstElement,
} from '@int-flash/reference';
import type { LabRequest } from './lab-request.js';

/** What the page hears of a run, in this order: begin, progress between results, end. */
export type LabEvent =
  | {
      readonly type: 'begin';
      readonly backend: { readonly name: string; readonly isa?: string; readonly threads?: number };
      /** So many rows of each head are compared with float64. */
      readonly checkedRows: number;
    }
  | { readonly type: 'progress'; readonly share: number; readonly doing: string }
  | LabResult
  /** This backend does not compute that. */
  | { readonly type: 'unavailable'; readonly variant: Precision; readonly why: string }
  | { readonly type: 'end' };

export interface LabResult {
  readonly type: 'result';
  readonly variant: Precision;
  /** Median of `repeats` calls; float32 in and out, quantization included. */
  readonly ms: number;
  readonly repeats: number;
  readonly relativeL2: number;
  readonly cosine: number;
  /** Largest |difference| of one element. */
  readonly worst: number;
}

/** Rows of a head that float64 is computed for, in blocks of neighbours: all of them would take longer than the runs they judge. */
const CHECKED_ROWS = 256;
const BLOCK_ROWS = 16;
const MIN_ROUNDS = 3;
const MAX_ROUNDS = 50;
/** What timing may take in all: with the rest, a run answers in about three seconds. */
const BUDGET_MS = 1500;

interface Head {
  readonly query: Float32Array;
  readonly key: Float32Array;
  readonly value: Float32Array;
}

/** One variant on its way: its plan, the compared rows of its output, and its times. */
interface Trial {
  readonly variant: Precision;
  readonly plan: AttentionPlan;
  readonly got: Float32Array;
  /** Of the call that warmed it up. */
  readonly firstMs: number;
  readonly times: number[];
}

/**
 * Runs each variant on the same inputs and compares it with float64 softmax attention.
 *
 * Nothing here holds up the event loop for long: inputs are drawn a head at a time, float64 rows in slices, and the backend works on
 * threads of its own (the portable one in slices). The experiments of `reproduce` compute every row instead.
 *
 * @throws the signal's reason when aborted.
 */
export async function* runLab(request: LabRequest, backend: Backend, signal: AbortSignal): AsyncGenerator<LabEvent> {
  const { tokens, heads, variants } = request;
  const { name, isa, threads } = backend.status();
  const rows = checkedRows(tokens);
  yield {
    type: 'begin',
    backend: { name, ...(isa !== undefined && { isa }), ...(threads !== undefined && { threads }) },
    checkedRows: rows.length,
  };

  const steps = heads * 2 + variants.length + 1;
  let done = 0;
  const progress = (doing: string): LabEvent => ({ type: 'progress', share: done++ / steps, doing });

  const drawn: Head[] = [];
  for (let head = 0; head < heads; head++) {
    yield progress('drawing inputs');
    drawn.push(drawHead(request, head));
    await turn();
    signal.throwIfAborted();
  }
  const expected: Float64Array[] = [];
  for (const head of drawn) {
    yield progress('computing float64');
    expected.push(await exactRows(request, head, rows, signal));
  }
  const truth = concat(expected);

  const trials: Trial[] = [];
  for (const variant of variants) {
    yield progress(`running ${variant}`);
    const plan = planOf(request, drawn, variant);
    try {
      const { out, ms } = await timedCall(backend, plan, signal);
      trials.push({ variant, plan, got: rowsOf(out, request, rows), firstMs: ms, times: [] });
    } catch (error) {
      if (!IntFlashError.isInstance(error) || error.code !== 'ERR_UNSUPPORTED') throw error;
      yield { type: 'unavailable', variant, why: error.message };
    }
  }
  yield progress('timing');
  await timeInRounds(backend, trials, signal);
  for (const { variant, got, firstMs, times } of trials) {
    const sorted = times.length > 0 ? times.sort((a, b) => a - b) : [firstMs];
    yield {
      type: 'result',
      variant,
      ms: sorted[Math.floor(sorted.length / 2)]!,
      repeats: sorted.length,
      relativeL2: relativeL2(got, truth),
      cosine: cosine(got, truth),
      worst: worstElement(got, truth, [got.length]).error,
    };
  }
  yield { type: 'end' };
}

/** Head h of seed s is drawn with seed s + h, on its own. */
function drawHead({ family, tokens, headDim, seed }: LabRequest, head: number): Head {
  const { query, key, value } = makeInputs(family, { heads: 1, queries: tokens, keys: tokens, headDim }, seed + head);
  return { query: query.data, key: key.data, value: value.data };
}

/** All rows, or blocks of neighbours spread evenly from the first row to the last. */
function checkedRows(tokens: number): readonly number[] {
  if (tokens <= CHECKED_ROWS) return Array.from({ length: tokens }, (_, row) => row);
  const blocks = CHECKED_ROWS / BLOCK_ROWS;
  return Array.from({ length: CHECKED_ROWS }, (_, index) => {
    const block = Math.floor(index / BLOCK_ROWS);
    return Math.round((block * (tokens - BLOCK_ROWS)) / (blocks - 1)) + (index % BLOCK_ROWS);
  });
}

async function exactRows(
  { headDim, tokens, isCausal }: LabRequest,
  { query, key, value }: Head,
  rows: readonly number[],
  signal: AbortSignal,
): Promise<Float64Array> {
  const out = new Float64Array(rows.length * headDim);
  for (let start = 0; start < rows.length; start += BLOCK_ROWS) {
    const block = rows.slice(start, start + BLOCK_ROWS);
    const first = block[0]!;
    const end = first + block.length;
    // The last query of a causal block sees the keys up to its own, and the diagonal ends at the lower right.
    const keys = isCausal ? end : tokens;
    const tensor = (data: Float32Array, from: number, to: number) => ({
      type: 'float32' as const,
      dims: [1, 1, to - from, headDim],
      data: data.subarray(from * headDim, to * headDim),
    });
    const plan = judgeAttention(
      { query: tensor(query, first, end), key: tensor(key, 0, keys), value: tensor(value, 0, keys) },
      { isCausal, causalAlignment: 'bottom-right' },
    );
    const exact = await runStepsInSlices(softmaxAttentionSteps(plan), signal);
    out.set(exact.out, start * headDim);
  }
  return out;
}

function planOf(
  { tokens, heads, headDim, isCausal }: LabRequest,
  drawn: readonly Head[],
  precision: Precision,
): AttentionPlan {
  const tensor = (name: keyof Head) => {
    const data = new Float32Array(heads * tokens * headDim);
    for (const [head, operands] of drawn.entries()) data.set(operands[name], head * tokens * headDim);
    return { type: 'float32' as const, dims: [1, heads, tokens, headDim], data };
  };
  return judgeAttention(
    { query: tensor('query'), key: tensor('key'), value: tensor('value') },
    { isCausal, precision },
  );
}

async function timedCall(backend: Backend, plan: AttentionPlan, signal: AbortSignal) {
  const start = performance.now();
  const { out } = await backend.attention(plan, signal);
  return { out, ms: performance.now() - start };
}

/** In turns, so that whatever else the machine does falls on all variants alike. A slow backend's first call has to do as its only one. */
async function timeInRounds(backend: Backend, trials: readonly Trial[], signal: AbortSignal): Promise<void> {
  const roundMs = trials.reduce((sum, { firstMs }) => sum + firstMs, 0);
  if (roundMs * MIN_ROUNDS > BUDGET_MS * 2) return;
  const end = performance.now() + BUDGET_MS;
  for (let round = 0; round < MAX_ROUNDS && (round < MIN_ROUNDS || performance.now() < end); round++) {
    for (const { plan, times } of trials) times.push((await timedCall(backend, plan, signal)).ms);
  }
}

function rowsOf(out: Float32Array, { tokens, heads, headDim }: LabRequest, rows: readonly number[]): Float32Array {
  const got = new Float32Array(heads * rows.length * headDim);
  let to = 0;
  for (let head = 0; head < heads; head++) {
    for (const row of rows) {
      const from = (head * tokens + row) * headDim;
      got.set(out.subarray(from, from + headDim), to);
      to += headDim;
    }
  }
  return got;
}

function concat(parts: readonly Float64Array[]): Float64Array {
  const whole = new Float64Array(parts.reduce((total, { length }) => total + length, 0));
  let to = 0;
  for (const part of parts) {
    whole.set(part, to);
    to += part.length;
  }
  return whole;
}
