import { selectBackend, status } from '@int-flash/attention';
import { KV_PAGE_TOKENS } from '@int-flash/ops';
import { hadamardRotate } from '@int-flash/quant';
import { describe, expect, it } from 'vitest';
import { CodeCacheLayer } from '../src/code-cache-layer.js';
import { Rotary } from '../src/layers/rotary.js';
import { Random } from '../src/random.js';

const hasAddon = status().backends.some(({ name, available }) => name === 'cpu' && available);
const KV_HEADS = 2;

describe.skipIf(!hasAddon)('rows that the native backend turns and writes into a cache', () => {
  const cpu = selectBackend('cpu');

  /** Rows of keys and values: outliers, rows of zeros at the start and later, tiny and huge ones, ties of the grid. */
  function rowsOf(headDim: number, tokens: number, seed: number): Float32Array {
    const random = new Random(seed);
    const width = 2 * KV_HEADS * headDim;
    return Float32Array.from({ length: tokens * width }, (_, i) => {
      const token = Math.floor(i / width);
      if (token < 3 || token === 40) return 0;
      if (token % 13 === 5) return Math.round(14 * random.next()) - 7; // on the grid and between two of its steps
      const size = token % 7 === 0 ? 2 ** -100 : token % 11 === 0 ? 2 ** 90 : 1;
      return size * (2 * random.next() - 1) * (i % 29 === 0 ? 20 : 1);
    });
  }

  it.each(['int8', 'int4'] as const)('%s: the bits of the slower way', (type) => {
    for (const headDim of [8, 24, 64, 96, 128, 256]) {
      const [keyOffset, valueOffset, stride] = [0, KV_HEADS * headDim, 2 * KV_HEADS * headDim];
      const pages = Int32Array.of(2, 0, 1);
      const layers = [cpu, undefined].map((backend) => new CodeCacheLayer(type, KV_HEADS, headDim, 3, backend));
      const states = layers.map((layer) => layer.start());
      const tokens = 2 * KV_PAGE_TOKENS + 20;
      const data = rowsOf(headDim, tokens, headDim);
      for (const [from, to] of [
        [0, 2],
        [2, 70],
        [70, 71],
        [71, tokens],
      ] as const) {
        const part = data.subarray(from * stride, to * stride);
        for (const [i, layer] of layers.entries())
          layer.write({ data: part, tokens: to - from, keyOffset, valueOffset, stride }, states[i]!, pages, from);
      }
      const [native, slow] = layers.map((layer) => layer.view(pages, tokens));
      expect(native, `head dim ${headDim}`).toEqual(slow);
      expect(states[0]).toEqual(states[1]);
    }
  });

  it.each(['int8', 'int4'] as const)('%s: refuses what is not finite', (type) => {
    for (const bad of [Number.NaN, Number.POSITIVE_INFINITY]) {
      const data = new Float32Array(4 * 2 * KV_HEADS * 8).fill(1);
      data[37] = bad;
      const layer = new CodeCacheLayer(type, KV_HEADS, 8, 1, cpu);
      const rows = { data, tokens: 4, keyOffset: 0, valueOffset: KV_HEADS * 8, stride: 2 * KV_HEADS * 8 };
      expect(() => layer.write(rows, layer.start(), Int32Array.of(0), 0)).toThrowError(
        expect.objectContaining({ code: 'ERR_NONFINITE' }),
      );
    }
  });

  it('turns heads to their positions as Rotary does, in place and elsewhere', () => {
    for (const [headDim, rotaryDim] of [
      [64, 64],
      [128, 128],
      [80, 32],
      [256, 256],
      [8, 6],
    ] as const) {
      const rotary = new Rotary({ rotaryDim, theta: 10_000, scaling: { type: 'default' } });
      const [heads, tokens, start, offset] = [3, 37, 900, 5];
      const stride = heads * headDim + 11;
      const random = new Random(headDim);
      const rows = Float32Array.from({ length: offset + tokens * stride }, () => 8 * random.next() - 4);
      const [slow, fast] = [rows.slice(), rows.slice()];
      const outs = [new Float32Array(tokens * heads * headDim), new Float32Array(tokens * heads * headDim)];
      rotary.rotate(rows, tokens, heads, headDim, start, offset, stride, outs[0]);
      rotary.rotate(rows, tokens, heads, headDim, start, offset, stride, outs[1], cpu);
      expect(outs[1]).toEqual(outs[0]);
      rotary.rotate(slow, tokens, heads, headDim, start, offset, stride);
      rotary.rotate(fast, tokens, heads, headDim, start, offset, stride, undefined, cpu);
      expect(fast).toEqual(slow);
      expect(fast).not.toEqual(rows);
    }
  });

  it('turns rows as hadamardRotate does, in place too', () => {
    for (const dim of [8, 24, 64, 96, 100, 128, 256]) {
      const random = new Random(dim);
      const rows = Float32Array.from({ length: 5 * dim }, (_, i) => (random.next() - 0.5) * 10 ** ((i % 9) - 4));
      const out = new Float32Array(rows.length);
      expect(cpu.turnRowsSync!(rows, dim, out)).toBe(true);
      expect(out).toEqual(hadamardRotate(rows, dim));
      expect(cpu.turnRowsSync!(rows, dim, rows)).toBe(true);
      expect(rows).toEqual(out);
    }
    expect(cpu.turnRowsSync!(Float32Array.of(1, Number.NaN), 2, new Float32Array(2))).toBe(false);
    expect(cpu.turnRowsSync!(Float32Array.of(3e38, 3e38), 2, new Float32Array(2))).toBe(false);
  });
});
