import { dequantizePerTokenInt4, quantizePerTokenInt4 } from '@int-flash/quant';
import { describe, expect, it } from 'vitest';
import { quantizeFittedInt4 } from '../src/fitted-int4.js';
import { Random } from '../src/random.js';

const DIM = 64;

function normalRows(rows: number, seed: number): Float32Array {
  const random = new Random(seed);
  return Float32Array.from(
    { length: rows * DIM },
    () => Math.sqrt(-2 * Math.log(1 - random.next())) * Math.cos(2 * Math.PI * random.next()),
  );
}

function squaredErrors(rows: Float32Array, quantized: { packed: Uint8Array; scales: Float32Array }): number[] {
  const back = dequantizePerTokenInt4(quantized, DIM);
  return Array.from(quantized.scales, (_, row) => {
    let sum = 0;
    for (let i = row * DIM; i < (row + 1) * DIM; i++) sum += (rows[i]! - back[i]!) ** 2;
    return sum;
  });
}

describe('quantizeFittedInt4', () => {
  it('is never worse than the full range, and on normal rows better by a tenth or more', () => {
    const rows = normalRows(200, 1);
    const [fitted, plain] = [
      squaredErrors(rows, quantizeFittedInt4(rows, DIM)),
      squaredErrors(rows, quantizePerTokenInt4(rows, DIM)),
    ];
    fitted.forEach((error, row) => {
      expect(error).toBeLessThanOrEqual(plain[row]! * (1 + 1e-6));
    });
    const total = (errors: number[]) => errors.reduce((sum, error) => sum + error, 0);
    expect(total(fitted) / total(plain)).toBeLessThan(0.9);
    expect(total(fitted) / total(plain)).toBeGreaterThan(0.5); // 15 levels cannot do better than their own step
  });

  it('keeps rows on the grid and rows of zeros as they are', () => {
    const rows = Float32Array.from({ length: 2 * DIM }, (_, i) => (i < DIM ? (i % 15) - 7 : 0));
    expect([...dequantizePerTokenInt4(quantizeFittedInt4(rows, DIM), DIM)]).toEqual([...rows]);
  });
});
