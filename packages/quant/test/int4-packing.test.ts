import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { packInt4, unpackInt4 } from '../src/index.js';

describe('packInt4, unpackInt4', () => {
  it('put the first code into the low nibble, two’s complement', () => {
    expect([...packInt4(Int8Array.of(1, -1, -7, 7, -8))]).toEqual([0xf1, 0x79, 0x08]);
    expect([...unpackInt4(Uint8Array.of(0xf1, 0x79, 0x08), 5)]).toEqual([1, -1, -7, 7, -8]);
  });

  it('give back what went in', () => {
    fc.assert(
      fc.property(fc.array(fc.integer({ min: -8, max: 7 })), (codes) => {
        expect([...unpackInt4(packInt4(Int8Array.from(codes)), codes.length)]).toEqual(codes);
      }),
    );
  });

  it('reject codes and counts that do not fit', () => {
    expect(() => packInt4(Int8Array.of(0, 8))).toThrow(
      expect.objectContaining({ code: 'ERR_ARG_RANGE', message: expect.stringContaining('element 1') }),
    );
    for (const count of [3, 6, -1, 3.5, Number.NaN]) {
      expect(() => unpackInt4(new Uint8Array([1]), count)).toThrow(expect.objectContaining({ code: 'ERR_SHAPE' }));
    }
  });
});
