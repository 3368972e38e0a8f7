import { describe, expect, it } from 'vitest';
import { gelu } from '../src/layers/gelu-mlp.js';
import { layerNorm } from '../src/layers/layer-norm.js';
import { rmsNorm } from '../src/layers/rms-norm.js';
import { Rotary } from '../src/layers/rotary.js';
import { silu, swiglu } from '../src/layers/swiglu.js';

/** Outputs are float32: half a step of it, relative. */
const FLOAT32 = 6e-8;

function expectClose(got: ArrayLike<number>, wanted: readonly number[], tolerance = FLOAT32): void {
  expect(got.length).toBe(wanted.length);
  wanted.forEach((value, i) => {
    expect(Math.abs(got[i]! - value), `element ${i}`).toBeLessThanOrEqual(tolerance * Math.max(Math.abs(value), 1e-30));
  });
}

describe('gelu', () => {
  it('is x · Φ(x), on both sides of where its two expansions meet', () => {
    // Φ from tables of the error function: erf(1/√2) = 0.6826894921370859, erf(√2) = 0.9544997361036416,
    // erf(3/√2) = 0.9973002039367398, erf(5/√2) = 0.9999994266968562.
    const values = Float32Array.of(0, 1, -1, 2, -2, 3, -3, 5, 20, -20);
    gelu(values, 'exact');
    const phi = (erf: number) => 0.5 * (1 + erf);
    const [one, two, three, five] = [
      0.6826894921370859, 0.9544997361036416, 0.9973002039367398, 0.9999994266968562,
    ].map(phi) as [number, number, number, number];
    expectClose(values, [0, one, one - 1, 2 * two, 2 * (two - 1), 3 * three, 3 * (three - 1), 5 * five, 20, -0]);
  });

  it('in its tanh form stays within 5e-4 of it but is another function', () => {
    const grid = Float32Array.from({ length: 161 }, (_, i) => i / 20 - 4);
    const [exact, tanh] = [grid.slice(), grid.slice()];
    gelu(exact, 'exact');
    gelu(tanh, 'tanh');
    const worst = Math.max(...exact.map((value, i) => Math.abs(value - tanh[i]!)));
    expect(worst).toBeLessThan(5e-4);
    expect(worst).toBeGreaterThan(4e-4); // the known distance, 4.73e-4 near 2.2
  });
});

describe('norms', () => {
  it('divide by the root of the mean square, plain or in place over strided rows', () => {
    const out = new Float32Array(2);
    rmsNorm(Float32Array.of(3, 4), 1, Float32Array.of(1, 2), 0, out);
    expectClose(out, [3 / Math.sqrt(12.5), 8 / Math.sqrt(12.5)]);
    const strided = Float32Array.of(9, 3, 4, 9, 1, 1, 9);
    rmsNorm(strided, 2, Float32Array.of(1, 1), 0, strided, 1, 3);
    expectClose(strided, [9, 3 / Math.sqrt(12.5), 4 / Math.sqrt(12.5), 9, 1, 1, 9]);
  });

  it('take off the mean first in a layer norm', () => {
    const out = new Float32Array(2);
    layerNorm(Float32Array.of(10, 14), 1, Float32Array.of(1, 2), Float32Array.of(0.5, 0), 0, out);
    expectClose(out, [-0.5, 2]);
  });
});

describe('swiglu', () => {
  it('gates by silu, row by row', () => {
    const out = new Float32Array(4);
    swiglu(Float32Array.of(1, 0, 3, 4, -1, 2, 5, 6), 2, 2, out);
    const s = (x: number) => x / (1 + Math.exp(-x));
    expectClose(out, [3 * s(1), 0, 5 * s(-1), 6 * s(2)]);
    const plain = Float32Array.of(1, -1);
    silu(plain);
    expectClose(plain, [s(1), s(-1)]);
  });
});

describe('Rotary', () => {
  const shape = { rotaryDim: 4, theta: 10_000, scaling: { type: 'default' } } as const;

  it('turns pairs (d, d + half) by position · θ^(−2d/dim) and leaves the rest', () => {
    const data = Float32Array.of(1, 0, 0, 1, 7);
    new Rotary(shape).rotate(data, 1, 1, 5, 3);
    expectClose(data, [Math.cos(3), -Math.sin(0.03), Math.sin(3), Math.cos(0.03), 7], 2e-6);
  });

  it('makes inner products depend on the distance only, past its first table too', () => {
    const rotary = new Rotary(shape);
    const dot = (a: number, b: number) => {
      const [q, k] = [Float32Array.of(1, 2, -1, 0.5), Float32Array.of(0.3, -1, 2, 1)];
      rotary.rotate(q, 1, 1, 4, a);
      rotary.rotate(k, 1, 1, 4, b);
      return q.reduce((sum, value, d) => sum + value * k[d]!, 0);
    };
    expect(dot(500, 490)).toBeCloseTo(dot(10, 0), 4);
    expect(dot(500, 480)).not.toBeCloseTo(dot(10, 0), 2);
  });
});
