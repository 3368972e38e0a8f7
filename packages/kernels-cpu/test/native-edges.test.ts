import { IntFlashError, judgeAttention } from '@int-flash/ops';
import { describe, expect, it } from 'vitest';
import { createCpuBackend, supportedIsas } from '../src/index.js';
import { randomCodes, randomFloats, randomScales, unequalBits } from './native-inputs.js';

const isas = supportedIsas();
const PRECISIONS = ['full-int8', 'half-int8', 'paper-int8', 'int4-qk', 'fp32'] as const;
const MAX = 3.4028234663852886e38;

function attend(
  isa: string,
  { q, k, v, dim = 8 }: { q: Float32Array; k: Float32Array; v: Float32Array; dim?: number },
  options: object = {},
) {
  const t = (data: Float32Array) => ({ type: 'float32', dims: [1, 1, data.length / dim, dim], data });
  const plan = judgeAttention({ query: t(q), key: t(k), value: t(v) }, { returnLse: true, ...options });
  return createCpuBackend({ isa }).attentionSync(plan);
}

describe.skipIf(isas.length === 0)('edges: finite or a typed error', () => {
  describe.each(isas.flatMap((isa) => PRECISIONS.map((precision) => ({ isa, precision }))))(
    '$isa $precision',
    ({ isa, precision }) => {
      const normal = { q: randomFloats(24, 1), k: randomFloats(80, 2), v: randomFloats(80, 3) };
      const finite = (inputs: typeof normal, options: object = {}) => {
        const { out, lse } = attend(isa, inputs, { precision, ...options });
        expect([...out, ...lse!].every((x) => Number.isFinite(x))).toBe(true);
        return out;
      };
      const code = (inputs: typeof normal) => {
        try {
          const { out } = attend(isa, inputs, { precision });
          return out.every(Number.isFinite) ? 'finite' : 'not finite';
        } catch (error) {
          return (error as IntFlashError).code;
        }
      };

      it('zero rows, columns and tensors', () => {
        for (const name of ['q', 'k', 'v'] as const) {
          finite({ ...normal, [name]: new Float32Array(normal[name].length) });
          finite({ ...normal, [name]: normal[name].map((x, i) => (i >= 8 && i < 16 ? 0 : x)) });
          finite({ ...normal, [name]: normal[name].map((x, i) => (i % 8 === 3 ? 0 : x)) });
        }
        expect(finite({ ...normal, v: new Float32Array(80) }).every((x) => x === 0)).toBe(true);
      });

      it('subnormal and largest magnitudes', () => {
        for (const name of ['q', 'k', 'v'] as const) {
          finite({ ...normal, [name]: normal[name].map((x) => x * 2 ** -140) });
          for (const factor of [2 ** 90, MAX / 8, MAX]) {
            const scaled = normal[name].map((x) => Math.max(-MAX, Math.min(MAX, x * factor)));
            expect(['finite', 'ERR_OVERFLOW']).toContain(code({ ...normal, [name]: scaled }));
          }
        }
        expect(code({ ...normal, q: normal.q.map((x) => x * 2 ** 60), k: normal.k.map((x) => x * 2 ** 60) })).toBe(
          'ERR_OVERFLOW',
        );
      });

      it('NaN and infinities are named by operand and element', () => {
        for (const [name, operand] of [
          ['q', 'query'],
          ['k', 'key'],
          ['v', 'value'],
        ] as const) {
          for (const bad of [Number.NaN, Infinity, -Infinity]) {
            const data = normal[name].slice();
            data[13] = bad;
            data[17] = bad;
            const call = () => attend(isa, { ...normal, [name]: data }, { precision });
            expect(call).toThrow(IntFlashError);
            expect(call).toThrow(`Expected ${operand} to hold finite numbers, got ${bad} at element 13`);
          }
        }
      });

      it('no keys, no queries, one of each', () => {
        const none = new Float32Array(0);
        const { out, lse } = attend(isa, { q: normal.q, k: none, v: none }, { precision });
        expect(out.every((x) => x === 0)).toBe(true);
        expect(lse!.every((x) => x === -Infinity)).toBe(true);
        expect(attend(isa, { ...normal, q: none }, { precision }).out).toHaveLength(0);
        const one = attend(
          isa,
          { q: normal.q.slice(0, 8), k: normal.k.slice(0, 8), v: normal.v.slice(0, 8) },
          { precision },
        );
        for (let d = 0; d < 8; d++) expect(Math.abs(one.out[d]! - normal.v[d]!)).toBeLessThan(0.02 * 6);
      });

      it('a finite mask of -FLT_MAX is not an exclusion', () => {
        const data = new Float32Array(10).fill(-MAX);
        const { out, lse } = attend(isa, normal, { precision, attnMask: { type: 'float32', dims: [1, 10], data } });
        expect(out.every(Number.isFinite)).toBe(true);
        expect(lse!.every((x) => x < -1e38 && x > -Infinity)).toBe(true);
      });

      it('strided views give what their copies give', () => {
        const data = randomFloats(10 * 40, 5);
        const view = { type: 'float32', dims: [1, 1, 10, 8], strides: [400, 400, 40, 1], data };
        const copy = {
          type: 'float32',
          dims: [1, 1, 10, 8],
          data: Float32Array.from({ length: 80 }, (_, i) => data[Math.floor(i / 8) * 40 + (i % 8)]!),
        };
        const run = (operand: object) =>
          createCpuBackend({ isa }).attentionSync(
            judgeAttention({ query: operand, key: operand, value: operand }, { precision }),
          ).out;
        expect(unequalBits(run(view), run(copy))).toBe(0);
      });
    },
  );

  // What lies past `length` is left over from other sequences; it must not reach a result, not even through a NaN times zero.
  it.each(isas.flatMap((isa) => [1, 3, 20].map((tokens) => ({ isa, tokens }))))(
    '$isa: poison past the length, $tokens tokens',
    ({ isa, tokens }) => {
      for (const type of ['int8', 'int4'] as const) {
        const [kvHeads, capacity, headDim, length] = [2, 300, 16, 133];
        const bytes = type === 'int8' ? headDim : headDim / 2;
        const make = (poison: boolean) => {
          const rows = (seed: number) => {
            const codes = randomCodes(kvHeads * capacity * bytes, seed);
            if (poison)
              for (let h = 0; h < kvHeads; h++)
                codes.fill(-128, (h * capacity + length) * bytes, (h + 1) * capacity * bytes);
            return type === 'int8' ? codes : new Uint8Array(codes.buffer);
          };
          const scales = (seed: number) => {
            const out = randomScales(kvHeads * capacity, seed);
            if (poison)
              for (let h = 0; h < kvHeads; h++) out.fill(Number.NaN, h * capacity + length, (h + 1) * capacity);
            return out;
          };
          return {
            type,
            kvHeads,
            capacity,
            headDim,
            length,
            keys: rows(1),
            values: rows(2),
            keyScales: scales(3),
            valueScales: scales(4),
          };
        };
        const run = (poison: boolean) =>
          createCpuBackend({ isa }).cacheAttentionSync({
            query: randomFloats(tokens * 4 * headDim, 5),
            tokens,
            heads: 4,
            cache: make(poison) as never,
            scale: 0.25,
            windowLeft: Infinity,
            softcap: 0,
          });
        expect(unequalBits(run(true), run(false))).toBe(0);
      }
    },
  );
});
