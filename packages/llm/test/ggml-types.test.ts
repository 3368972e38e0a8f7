import { dequantizePerGroupInt4 } from '@int-flash/quant';
import { describe, expect, it } from 'vitest';
import { dequantizeGgml, exactInt8Rows, int4Groups } from '../src/ggml-types.js';
import { GGML, int8RowsAsQ8 } from './write-gguf.js';

describe('ggml blocks', () => {
  it('Q8_0 and Q4_0 stand for the numbers worked out by hand', () => {
    const q8 = new Uint8Array(34);
    q8.set([0x00, 0x38, 2, 0xff]); // scale 0.5; codes 2, -1, 0, …
    expect([...dequantizeGgml('Q8_0', q8)].slice(0, 3)).toEqual([1, -0.5, 0]);
    const q4 = new Uint8Array(18);
    q4.set([0x00, 0x3c, 0xf9]); // scale 1; element 0 is 9 - 8, element 16 is 15 - 8, the others 0 - 8
    const values = [...dequantizeGgml('Q4_0', q4)];
    expect([values[0], values[16], values[1]]).toEqual([1, 7, -8]);
    const numbers = Float32Array.of(1.5, -2, 0.25);
    expect(dequantizeGgml('F32', GGML.f32.encode(numbers))).toEqual(numbers);
    expect(dequantizeGgml('F16', GGML.f16.encode(numbers))).toEqual(numbers);
    expect(dequantizeGgml('BF16', GGML.bf16.encode(numbers))).toEqual(numbers);
  });

  it('Q4_0 is INT4 in groups of 32, whatever the sign of its scales', () => {
    const bytes = Uint8Array.from({ length: 4 * 18 }, (_, i) => (i * 37 + 11) & 255);
    for (const [block, scale] of [0x3800, 0xb400, 0x0000, 0xbc01].entries())
      bytes.set([scale & 255, scale >> 8], block * 18); // 0.5, -0.25, 0, a little below -1
    const { packed, scales } = int4Groups(bytes);
    expect(dequantizePerGroupInt4({ packed, scales, group: 32 })).toEqual(dequantizeGgml('Q4_0', bytes));
  });

  it('Q4_1, Q5_1, Q5_0, Q4_K, Q5_K and Q6_K stand for the numbers worked out by hand', () => {
    const q4 = new Uint8Array(20);
    q4.set([0x00, 0x38, 0x00, 0xbc, 0xf9]); // scale 0.5, minimum -1; element 0 is 9, element 16 is 15, the others 0
    const halves = dequantizeGgml('Q4_1', q4);
    expect([halves[0], halves[16], halves[1]]).toEqual([3.5, 6.5, -1]);
    const q51 = new Uint8Array(24);
    q51.set([0x00, 0x38, 0x00, 0xbc, 0b0000_0001, 0, 0, 0, 0xf9]); // the same, with the fifth bit of element 0
    const ones = dequantizeGgml('Q5_1', q51);
    expect([ones[0], ones[16], ones[1]]).toEqual([11.5, 6.5, -1]);

    const q5 = new Uint8Array(22);
    q5.set([0x00, 0x3c, 0b0000_0010, 0, 0b0000_0001, 0, 0x3f, 0x05]); // scale 1; fifth bits of elements 1 and 16
    const fives = dequantizeGgml('Q5_0', q5);
    expect([fives[0], fives[1], fives[16], fives[17]]).toEqual([15 - 16, 21 - 16, 19 - 16, 0 - 16]);

    const d = [0x00, 0x3c]; // 1
    const dmin = [0x00, 0x38]; // 0.5
    // Part 0 has scale 3 and minimum 2, part 5 scale 45 and minimum 37: low halves in byte 9, two bits each above bytes 1 and 5.
    const factors = [3, (45 >> 4) << 6, 0, 0, 2, (37 >> 4) << 6, 0, 0, 0, (45 & 15) | ((37 & 15) << 4), 0, 0];
    const q4k = new Uint8Array(144);
    q4k.set([...d, ...dmin, ...factors]);
    q4k[16] = 0x07; // element 0 of part 0
    q4k[16 + 2 * 32 + 31] = 0x90; // element 31 of part 5
    const fours = dequantizeGgml('Q4_K', q4k);
    expect([fours[0], fours[1], fours[5 * 32 + 31]]).toEqual([3 * 7 - 1, -1, 45 * 9 - 18.5]);

    const q5k = new Uint8Array(176);
    q5k.set([...d, ...dmin, ...factors]);
    q5k[16] = 0b0000_0001; // the fifth bit of element 0 of part 0
    q5k[16 + 31] = 0b0010_0000; // that of element 31 of part 5
    q5k[48] = 0x07;
    q5k[48 + 2 * 32 + 31] = 0x90;
    const fivesK = dequantizeGgml('Q5_K', q5k);
    expect([fivesK[0], fivesK[1], fivesK[5 * 32 + 31]]).toEqual([3 * 23 - 1, -1, 45 * 25 - 18.5]);

    const q6k = new Uint8Array(210);
    q6k.set(d, 208);
    q6k.set([5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xfd], 192); // scales: 5 of elements 0 to 15, -3 of 208 to 223
    q6k[0] = 0x0b;
    q6k[128] = 0b0000_0011; // element 0: 11 + 48
    q6k[64 + 20] = 0x60;
    q6k[128 + 32 + 20] = 0b0010_0000; // element 212, run 2 of the second half: 6 + 32
    const sixes = dequantizeGgml('Q6_K', q6k);
    expect([sixes[0], sixes[1], sixes[212], sixes[213]]).toEqual([5 * (59 - 32), 5 * -32, -3 * (38 - 32), -3 * -32]);
  });

  it('Q8_0 is INT8 rows exactly where a row has one scale and no -128', () => {
    const codes = Int8Array.from({ length: 128 }, (_, i) => (i % 255) - 127);
    const scales = Float32Array.of(0.5, 0.25);
    const bytes = int8RowsAsQ8(codes, scales, 64);
    expect(exactInt8Rows(bytes, 2, 64)).toEqual({ codes, scales });
    const other = bytes.slice();
    other[34] = 1; // the second block of row 0 gets another scale
    expect(exactInt8Rows(other, 2, 64)).toBeUndefined();
    const least = bytes.slice();
    least[2] = 0x80;
    expect(exactInt8Rows(least, 2, 64)).toBeUndefined();
  });
});
