import { type AttentionPlan, type FloatType, fromFloat32, judgeAttention, toFloat32 } from '@int-flash/ops';
import { quantizePerTokenInt8, smoothK } from '@int-flash/quant';
import { type InputFamily, makeInputs, relativeL2, softmaxAttention, worstElement } from '@int-flash/reference';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { cudaStatus } from '../src/cuda-status.js';
import { type DeviceHandle, loadNativeAddon, type NativeAddon } from '../src/native-addon.js';
import { expectSameBits } from './same-bits.js';
import { readSortedCodes, type SortedCodes } from './sorted-images.js';

// A sequence against the codes that the kernels on sorted tiles read, which a probe hands out: are they right, and is what the kernels make of them?
const status = cudaStatus();
const isHopper = status.isa === 'sm_90';
const VARIANTS = [
  { kernel: 'sorted', precision: 'full-int8' },
  ...(isHopper
    ? ([
        { kernel: 'hopper', precision: 'full-int8' },
        { kernel: 'hopper', precision: 'half-int8' },
      ] as const)
    : []),
] as const;
const [HEADS, KV_HEADS] = [2, 1];
/** Up to half a step, and what float32 makes of a number beside the border between two codes. */
const HALF_STEP = 0.501;

interface Case {
  readonly family: InputFamily;
  readonly type: FloatType;
  readonly headDim: number;
  readonly headDimV: number;
  readonly queries: number;
  readonly keys: number;
  readonly isCausal: boolean;
  /** Of every 128 values so many are of a magnitude of their own: 0 makes plain tiles, up to 16 outliers, more columns. */
  readonly odd: number;
}
const CASES: Case[] = [
  { family: 'normal', type: 'float32', headDim: 128, headDimV: 128, queries: 130, keys: 700, isCausal: false, odd: 0 },
  { family: 'kbias', type: 'bfloat16', headDim: 128, headDimV: 128, queries: 130, keys: 640, isCausal: true, odd: 0 },
  { family: 'sink', type: 'float16', headDim: 128, headDimV: 64, queries: 70, keys: 513, isCausal: false, odd: 0 },
  { family: 'sinkall', type: 'float32', headDim: 64, headDimV: 64, queries: 130, keys: 700, isCausal: false, odd: 0 },
  { family: 'vout', type: 'bfloat16', headDim: 64, headDimV: 64, queries: 65, keys: 321, isCausal: true, odd: 0 },
  { family: 'sharp', type: 'float16', headDim: 40, headDimV: 56, queries: 130, keys: 449, isCausal: false, odd: 0 },
  { family: 'normal', type: 'float32', headDim: 64, headDimV: 64, queries: 130, keys: 576, isCausal: true, odd: 9 },
  { family: 'normal', type: 'float32', headDim: 128, headDimV: 128, queries: 130, keys: 512, isCausal: false, odd: 16 },
  { family: 'normal', type: 'bfloat16', headDim: 128, headDimV: 72, queries: 130, keys: 500, isCausal: true, odd: 40 },
  { family: 'normal', type: 'float16', headDim: 256, headDimV: 256, queries: 66, keys: 300, isCausal: true, odd: 0 },
  { family: 'kbias', type: 'float32', headDim: 192, headDimV: 256, queries: 66, keys: 257, isCausal: false, odd: 12 },
  { family: 'normal', type: 'float32', headDim: 8, headDimV: 8, queries: 130, keys: 129, isCausal: false, odd: 40 },
];

const made = new Map<Case, ReturnType<typeof makeCase>>();
/** A case's inputs and their answer in float64, which the kernels have together. */
function inputsOf(one: Case) {
  const inputs = made.get(one) ?? makeCase(one);
  made.set(one, inputs);
  return inputs;
}

/** Inputs as the case's type has them, and the same numbers as float32. */
function makeCase({ family, type, odd, isCausal, ...shape }: Case) {
  const inputs = makeInputs(family, { heads: HEADS, kvHeads: KV_HEADS, ...shape }, 11);
  const values = inputs.value.data.map((x, i) => {
    const token = Math.floor(i / shape.headDimV) % shape.keys;
    return (token * 37) % 128 < odd ? x * 2 ** (-3 - 5 * ((token * 11) % 3)) : x;
  });
  const narrow = (data: Float32Array) => (type === 'float32' ? data : (fromFloat32(data, type) as Uint16Array));
  const widen = (data: Float32Array | Uint16Array) =>
    type === 'float32' ? (data as Float32Array) : toFloat32(data as Uint16Array, type);
  const tensor = (data: Float32Array, dims: readonly number[]) => ({ type, dims, data: narrow(data) });
  const given = {
    query: tensor(inputs.query.data, inputs.query.dims),
    key: tensor(inputs.key.data, inputs.key.dims),
    value: tensor(values, inputs.value.dims),
  };
  const exact = {
    query: widen(given.query.data),
    key: widen(given.key.data),
    value: widen(given.value.data),
  };
  const options = { isCausal, causalAlignment: 'bottom-right' as const };
  return { given, exact, options, answer: softmaxAttention(judgeAttention(given, options)).out };
}

/** [rows, from] of which the first `width` of a row are wanted. */
function cut<T extends Int8Array | Uint16Array>(rows: T, from: number, width: number): number[] {
  const out: number[] = [];
  for (let at = 0; at < rows.length; at += from) for (let d = 0; d < width; d++) out.push(rows[at + d]!);
  return out;
}

/** The numbers that the codes stand for, [.., keys, width]. */
function dequantized(codes: SortedCodes, { headDim, headDimV, keys }: Case) {
  const { padded } = codes;
  const query = Float32Array.from(
    cut(codes.queryCodes, padded, headDim),
    (code, i) => code * codes.queryScales[Math.floor(i / headDim)]!,
  );
  const key = Float32Array.from(
    cut(codes.keyCodes, padded, headDim),
    (code, i) => code * codes.keyScales[Math.floor(i / headDim)]!,
  );
  const raw = cut(codes.values, padded, headDimV);
  const value =
    codes.values instanceof Uint16Array
      ? toFloat32(Uint16Array.from(raw), 'float16')
      : Float32Array.from(raw, (code, i) => {
          const [row, d] = [Math.floor(i / headDimV), i % headDimV];
          const channel = codes.channelScales[Math.floor(row / keys) * padded + d]!;
          return (code * channel) / codes.inverseWeights[row]!;
        });
  return { query, key, value };
}

/** x of the keys that a row sees, in log2 units, the value weight's in it. @returns how many they are */
function scoresOf(codes: SortedCodes, plan: AttentionPlan, row: number, x: Float64Array): number {
  const { padded, tau, keyCodes, queryCodes, keyScales, queryScales } = codes;
  const { qLen: queries, kLen: keys } = plan.sequences[0]!;
  const head = Math.floor(row / queries / (HEADS / KV_HEADS));
  const end =
    plan.windowRight === Infinity ? keys : Math.min(keys, (row % queries) + keys - queries + plan.windowRight + 1);
  for (let j = 0; j < end; j++) {
    const at = head * keys + j;
    let dot = 0;
    for (let d = 0; d < padded; d++) dot += queryCodes[row * padded + d]! * keyCodes[at * padded + d]!;
    x[j] = dot * keyScales[at]! * queryScales[row]! * plan.scale * Math.LOG2E + tau[at]!;
  }
  return end;
}

/**
 * A row's log-sum-exp by the codes, in float64: of weights as P's formats have them, against their tile's maximum, where the row sum takes those, and
 * what one code of P is in it.
 */
function lseOfCodes(codes: SortedCodes, plan: AttentionPlan, row: number): { lse: number; code: number } {
  const { qLen: queries, kLen: keys } = plan.sequences[0]!;
  const from = Math.floor(row / queries / (HEADS / KV_HEADS)) * keys;
  const x = new Float64Array(keys);
  const end = scoresOf(codes, plan, row, x);
  const isHalf = codes.values instanceof Uint16Array;
  const top = x.subarray(0, end).reduce((most, score) => Math.max(most, score), -Infinity);
  let [sum, code] = [0, 0];
  for (let begin = 0; begin < end; begin += codes.tileKeys) {
    const tile = x.subarray(begin, Math.min(begin + codes.tileKeys, end));
    const tileTop = tile.reduce((most, score) => Math.max(most, score), -Infinity);
    for (const [i, score] of tile.entries()) {
      const inverseWeight = codes.inverseWeights[from + begin + i]!;
      const unit = 2 ** (tileTop - top) * inverseWeight;
      const p = 2 ** (score - tileTop);
      const isExact = isHalf || codes.hasOwnWeight[from + begin + i]; // float16's roundings leave nothing of a sum's fourth digit
      sum += unit * (isExact ? p : Math.round(255 * p) / 255);
      if (!isExact) code = Math.max(code, unit / 255);
    }
  }
  return { lse: (top + Math.log2(sum)) * Math.LN2, code: code / sum };
}

/**
 * The same codes once more in the kernel's formats, but with nothing tiled: P is rounded against its row's maximum over all keys, to 8 bits or, where
 * values are floats, to float16; the row sum takes what the kernel's takes.
 */
function untiled(codes: SortedCodes, values: Float32Array, plan: AttentionPlan): Float32Array {
  const { inverseWeights } = codes;
  const { headDimV } = plan;
  const { qLen: queries, kLen: keys } = plan.sequences[0]!;
  const half = codes.values instanceof Uint16Array;
  const out = new Float32Array(HEADS * queries * headDimV);
  const x = new Float64Array(keys);
  for (let row = 0; row < HEADS * queries; row++) {
    const head = Math.floor(row / queries / (HEADS / KV_HEADS));
    const end = scoresOf(codes, plan, row, x);
    let top = -Infinity;
    for (let j = 0; j < end; j++) top = Math.max(top, x[j]!);
    let sum = 0;
    const products = new Float64Array(headDimV);
    for (let j = 0; j < end; j++) {
      const at = head * keys + j;
      const p = 2 ** (x[j]! - top);
      const rounded = half ? toFloat16(p) : Math.round(255 * p) / 255;
      sum += (codes.hasOwnWeight[at] ? p : rounded) * inverseWeights[at]!;
      for (let d = 0; d < headDimV; d++) products[d]! += rounded * inverseWeights[at]! * values[at * headDimV + d]!; // values are channel · weight · code
    }
    for (let d = 0; d < headDimV; d++) out[row * headDimV + d] = products[d]! / sum;
  }
  return out;
}

function toFloat16(x: number): number {
  return toFloat32(fromFloat32(Float32Array.of(x), 'float16') as Uint16Array, 'float16')[0]!;
}

describe.skipIf(!status.available).each(VARIANTS)('what $kernel reads for $precision', ({ kernel, precision }) => {
  const takes = ({ headDim, headDimV }: Case) => isHopper || Math.max(headDim, headDimV) <= 128;
  const cases = CASES.filter(takes).map((one) => {
    const { family, type, headDim, headDimV, isCausal, odd } = one;
    return [`${family} ${type} ${headDim}/${headDimV}${isCausal ? ' causal' : ''} odd ${odd}`, one] as const;
  });
  const kinds = new Set<number>();
  let addon: NativeAddon;
  let device: DeviceHandle;
  beforeAll(() => {
    addon = loadNativeAddon().addon!;
    device = addon.openDevice(0);
  });
  afterAll(() => {
    expect(addon.liveBytes(device)).toBe(0);
    addon.closeDevice(device);
  });

  it.each(cases)('%s: the codes are those of the inputs, and the answer is that of the codes', async (_, one) => {
    const { given, exact, options, answer } = inputsOf(one);
    const { headDim, headDimV, keys } = one;
    const plan = judgeAttention(given, { precision, returnLse: true, ...options });
    const codes = await readSortedCodes(addon, device, plan, kernel);
    expect(codes.faults).toEqual([]);
    for (const kind of codes.kinds) kinds.add(kind);

    // The codes. Q's are quant's to the bit; K's and V's are as near as their scales allow; past the head dimension there are zeros.
    const q8 = quantizePerTokenInt8(exact.query, headDim);
    expectSameBits(Int8Array.from(cut(codes.queryCodes, codes.padded, headDim)), q8.values);
    expectSameBits(codes.queryScales, q8.scales);
    const numbers = dequantized(codes, one);
    const { values: smooth, mean } = smoothK(exact.key, headDim);
    const far = (want: Float32Array, got: Float32Array, stepOf: (i: number) => number) => {
      let worst = 0;
      for (let i = 0; i < want.length; i++) worst = Math.max(worst, Math.abs(want[i]! - got[i]!) / stepOf(i));
      return worst;
    };
    expect(far(smooth, numbers.key, (i) => codes.keyScales[Math.floor(i / headDim)]!)).toBeLessThan(HALF_STEP);
    if (precision === 'half-int8')
      expectSameBits(numbers.value, toFloat32(fromFloat32(exact.value, 'float16') as Uint16Array, 'float16'));
    else {
      const stepOf = (i: number) => {
        const row = Math.floor(i / headDimV);
        const channel = codes.channelScales[Math.floor(row / keys) * codes.padded + (i % headDimV)]!;
        return channel / codes.inverseWeights[row]!;
      };
      expect(far(exact.value, numbers.value, stepOf)).toBeLessThan(HALF_STEP);
    }
    const beyond = (rows: Int8Array | Uint16Array, width: number) =>
      rows.some((code, i) => code !== 0 && i % codes.padded >= width);
    expect([
      beyond(codes.queryCodes, headDim),
      beyond(codes.keyCodes, headDim),
      beyond(codes.values, headDimV),
    ]).toEqual([false, false, false]);

    // The answer, by the rule of two: no further from float64 on the same codes than twice what their formats cost where nothing is tiled.
    const tensor = (data: Float32Array, { dims }: { dims: readonly number[] }) => ({ type: 'float32', dims, data });
    const onCodes = judgeAttention(
      {
        query: tensor(numbers.query, given.query),
        key: tensor(numbers.key, given.key),
        value: tensor(numbers.value, given.value),
      },
      options,
    );
    const truth = softmaxAttention(onCodes).out;
    const largest = (got: ArrayLike<number>) => worstElement(got, truth, plan.outDims).error;
    const slack = largest(Float32Array.from(truth, (x) => Math.fround(x + 0.3) - 0.3));
    const allowed = 2 * largest(untiled(codes, numbers.value, plan)) + 2 * slack;
    expect(largest(codes.out)).toBeLessThanOrEqual(allowed);
    // The log-sum-exp: that of the codes, and what smoothing took off. A code of P that falls to the other side of a border is one code; the rest is float32's.
    let beyondBound = 0;
    for (let row = 0; row < codes.lse.length; row++) {
      const { lse, code } = lseOfCodes(codes, plan, row);
      let shift = 0;
      for (let d = 0; d < headDim; d++) shift += exact.query[row * headDim + d]! * mean[d]!;
      const expected = lse + plan.scale * shift;
      const bound = 1e-3 + code + Math.abs(expected) * 2 ** -20; // of scores in the hundreds float32 has that much
      beyondBound = Math.max(beyondBound, Math.abs(codes.lse[row]! - expected) - bound);
    }
    expect(codes.lse).toHaveLength(HEADS * one.queries);
    expect(beyondBound).toBeLessThanOrEqual(0);
    // The rule says nothing where the formats are no good, nor where the codes are others'.
    const largestValue = exact.value.reduce((most, x) => Math.max(most, Math.abs(x)), 0);
    expect(allowed).toBeLessThan((precision === 'half-int8' ? 1e-3 : 0.1) * largestValue);
    expect(relativeL2(truth, answer)).toBeLessThan(0.03);
  });

  it('met tiles of every kind', () => {
    expect([...kinds].sort()).toEqual(precision === 'half-int8' ? [0] : [0, 1, 2]);
  });
});
