import { describe, expect, it } from 'vitest';
import { hostArray, hostArrayOf, IntFlashError } from '../src/index.js';

describe('hostArray', () => {
  it('makes zeros of the kind it is asked for', () => {
    expect(hostArray(Float32Array, 3, 'three numbers')).toEqual(new Float32Array(3));
    expect(hostArray(Uint8Array, 0, 'nothing')).toEqual(new Uint8Array(0));
    expect(hostArrayOf(Float64Array, [2, 3], 'a matrix')).toEqual(new Float64Array(6));
    expect(hostArrayOf(Float64Array, [], 'a number')).toEqual(new Float64Array(1));
  });

  // 2^53 bytes are beyond the addresses that any machine has.
  it.each([
    ['Uint8Array', Uint8Array, 2 ** 53 - 1],
    ['Float64Array', Float64Array, 2 ** 50],
  ] as const)('says what could not be had, and the way out: %s', (_, kind, length) => {
    const make = () => hostArray<unknown>(kind, length, 'the answer', 'Ask for less.');
    const bytes = length * kind.BYTES_PER_ELEMENT;
    expect(make).toThrow(IntFlashError);
    expect(make).toThrow(
      expect.objectContaining({
        code: 'ERR_OOM',
        where: 'host',
        bytes,
        hint: 'Ask for less.',
        cause: expect.any(RangeError),
        message: expect.stringContaining(`Expected ${bytes} bytes of host memory for the answer, got none: `),
      }),
    );
    expect(() => hostArray<unknown>(kind, length, 'the answer')).toThrow(
      expect.not.objectContaining({ hint: expect.anything() }),
    );
  });
});
