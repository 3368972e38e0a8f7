import { judgeAttention } from '@int-flash/ops';
import { afterAll, describe, expect, it } from 'vitest';
import { supportedIsas } from '../src/index.js';
import { nativeAddon } from '../src/native-addon.js';
import { attentionArguments } from '../src/native-parameters.js';
import { randomFloats, unequalBits } from './native-inputs.js';

// Every instruction set of this machine does the arithmetic of docs/arithmetic.md to the bit, so each is compared with
// portable C++: the checksums cover every int32 accumulator of both products, the outputs every float32.
const isas = supportedIsas();
const PRECISIONS = ['full-int8', 'half-int8', 'paper-int8', 'int4-qk', 'fp32'] as const;
const HEADS = { MHA: [2, 2], GQA: [4, 2], MQA: [3, 1] } as const;
const BANDS = {
  full: {},
  'causal top-left': { isCausal: true },
  'causal bottom-right': { isCausal: true, causalAlignment: 'bottom-right' },
  window: { windowSize: [20, 6], causalAlignment: 'bottom-right' },
} as const;
// 128 keys fill one tile; 16 and 64 one block of the register tiles; the others leave ragged ends on every level.
const LENGTHS = [
  [1, 1],
  [1, 130],
  [3, 15],
  [4, 128],
  [5, 129],
  [17, 64],
  [33, 47],
  [66, 31],
  [20, 200],
  [32, 129],
  [48, 300],
  [70, 64],
] as const;
const MASKED = [45, 300] as const;
const maskOf = (type: 'bool' | 'float32') => {
  const numbers = randomFloats(MASKED[0] * MASKED[1], 9);
  const dims = [1, 1, ...MASKED];
  if (type === 'bool') return { type, dims, data: Uint8Array.from(numbers, (x) => Number(x > -0.4)) };
  return { type, dims, data: numbers.map((x) => (x > 0.8 ? Number.NEGATIVE_INFINITY : x)) };
};
const MASKS = {
  'a mask of booleans': { attnMask: maskOf('bool') },
  'a mask of floats': { attnMask: maskOf('float32') },
  'a softcap': { softcap: 3 },
} as const;
const cases = PRECISIONS.flatMap((precision) =>
  Object.keys(HEADS).flatMap((heads) =>
    Object.keys(BANDS).flatMap((band) =>
      [8, 16, 32, 64, 80, 96, 128, 256].flatMap((headDim) =>
        [0, 1, 2, 3, 4, 5].map((n) => ({ precision, heads, band, headDim, n })),
      ),
    ),
  ),
);
interface Shape {
  readonly precision: (typeof PRECISIONS)[number];
  readonly headDim: number;
  readonly lengths: readonly [queries: number, keys: number];
  readonly heads: readonly [query: number, keyValue: number];
  readonly seed: number;
}

/** Plans a call and returns what runs it on one instruction set: outputs, log-sum-exps and, when asked for, checksums. */
function prepare(
  { precision, headDim, lengths: [queries, keys], heads: [h, hkv], seed }: Shape,
  band: object,
  { checksums }: { checksums: boolean },
) {
  const operand = (tokens: number, count: number, s: number) => ({
    type: 'float32',
    dims: [1, count, tokens, headDim],
    data: randomFloats(count * tokens * headDim, s + seed),
  });
  const plan = judgeAttention(
    { query: operand(queries, h, 1), key: operand(keys, hkv, 2), value: operand(keys, hkv, 3) },
    { ...band, precision, returnLse: true },
  );
  return (isa: number) => {
    const out = new Float32Array(plan.outDims.reduce((a, b) => a * b, 1));
    const lse = new Float32Array(h * queries);
    const sums = nativeAddon().attention(...attentionArguments(plan, { isa, threads: 1, checksums }), out, lse);
    return { out, lse, checksums: sums };
  };
}

function expectSameBits(attend: ReturnType<typeof prepare>): void {
  const portable = attend(isas.length - 1);
  expect(portable.out.every(Number.isFinite)).toBe(true);
  for (let isa = 0; isa < isas.length - 1; isa++) {
    const actual = attend(isa);
    expect(unequalBits(actual.out, portable.out), `${isas[isa]} out`).toBe(0);
    expect(unequalBits(actual.lse, portable.lse), `${isas[isa]} lse`).toBe(0);
  }
}

let executed = 0;

describe.skipIf(isas.length === 0)('native attention, each instruction set', () => {
  it.each(cases)('$precision $heads $band headDim $headDim lengths $n', ({ precision, heads, band, headDim, n }) => {
    const lengths = LENGTHS[(n + headDim / 8) % LENGTHS.length]!;
    const shape = { precision, headDim, lengths, heads: HEADS[heads as keyof typeof HEADS], seed: n };
    const attend = prepare(shape, BANDS[band as keyof typeof BANDS], { checksums: true });
    const run = (isa: number) => {
      executed++;
      return attend(isa);
    };
    const portable = run(isas.length - 1);
    expect(portable.out.every(Number.isFinite)).toBe(true);
    if (precision !== 'fp32') expect(portable.checksums).not.toMatch(/^0+:/);
    for (let isa = 0; isa < isas.length - 1; isa++) {
      const actual = run(isa);
      expect(actual.checksums, `${isas[isa]} accumulators`).toBe(portable.checksums);
      expect(unequalBits(actual.out, portable.out), `${isas[isa]} out`).toBe(0);
      expect(unequalBits(actual.lse, portable.lse), `${isas[isa]} lse`).toBe(0);
    }
  });

  // Sums that are to be checked take a slower way; this is the other one: tiles that all rows see whole, next to such that they do not.
  it.each(
    (['full-int8', 'paper-int8', 'int4-qk'] as const).flatMap((precision) =>
      Object.keys(BANDS).flatMap((band) =>
        [64, 72, 128, 136, 192, 256].map((headDim) => ({ precision, band, headDim })),
      ),
    ),
  )('$precision $band headDim $headDim, several tiles and no checksums', ({ precision, band, headDim }) => {
    const shape = { precision, headDim, lengths: [70, 450], heads: [2, 1], seed: headDim } as const;
    const attend = prepare(shape, BANDS[band as keyof typeof BANDS], { checksums: false });
    expectSameBits(attend);
  });

  it.each(
    (['full-int8', 'half-int8', 'paper-int8', 'int4-qk'] as const).flatMap((precision) =>
      Object.keys(MASKS).flatMap((mask) => [64, 72].map((headDim) => ({ precision, mask, headDim }))),
    ),
  )('$precision with $mask, headDim $headDim', ({ precision, mask, headDim }) => {
    const shape = { precision, headDim, lengths: [MASKED[0], MASKED[1]], heads: [2, 1], seed: headDim } as const;
    const attend = prepare(shape, MASKS[mask as keyof typeof MASKS], { checksums: false });
    expectSameBits(attend);
  });

  afterAll(() => expect(executed).toBeGreaterThanOrEqual(2500 * isas.length));
});
