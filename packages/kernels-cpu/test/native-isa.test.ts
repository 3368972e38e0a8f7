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
] as const;
const cases = PRECISIONS.flatMap((precision) =>
  Object.keys(HEADS).flatMap((heads) =>
    Object.keys(BANDS).flatMap((band) =>
      [8, 16, 32, 64, 80, 96, 128, 256].flatMap((headDim) =>
        [0, 1, 2, 3, 4, 5].map((n) => ({ precision, heads, band, headDim, n })),
      ),
    ),
  ),
);
let executed = 0;

describe.skipIf(isas.length === 0)('native attention, each instruction set', () => {
  it.each(cases)('$precision $heads $band headDim $headDim lengths $n', ({ precision, heads, band, headDim, n }) => {
    const [queries, keys] = LENGTHS[(n + headDim / 8) % LENGTHS.length]!;
    const [h, hkv] = HEADS[heads as keyof typeof HEADS];
    const operand = (tokens: number, count: number, seed: number) => ({
      type: 'float32',
      dims: [1, count, tokens, headDim],
      data: randomFloats(count * tokens * headDim, seed + n),
    });
    const plan = judgeAttention(
      { query: operand(queries, h, 1), key: operand(keys, hkv, 2), value: operand(keys, hkv, 3) },
      { ...BANDS[band as keyof typeof BANDS], precision, returnLse: true },
    );
    const run = (isa: number) => {
      const out = new Float32Array(plan.outDims.reduce((a, b) => a * b, 1));
      const lse = new Float32Array(h * queries);
      const checksums = nativeAddon().attention(
        ...attentionArguments(plan, { isa, threads: 1, checksums: true }),
        out,
        lse,
      );
      executed++;
      return { out, lse, checksums };
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

  afterAll(() => expect(executed).toBeGreaterThanOrEqual(2500 * isas.length));
});
