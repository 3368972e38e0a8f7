import { describe, expect, it } from 'vitest';
import { type ErrorCode, judgeHalfQuantizedAttention } from '../src/index.js';
import { codes, float, halfInputs, ones } from './code-inputs.js';

describe('half-int8 on codes', () => {
  const half = (change: object, options?: object) => () =>
    judgeHalfQuantizedAttention({ ...halfInputs(), ...change }, options);

  it('takes codes with scales for Q and K, and floats of any type for V', () => {
    const plan = half({}, { isCausal: true })();
    expect(plan).toMatchObject({ precision: 'half-int8', windowRight: 0, value: { type: 'float32' } });
    expect(plan.queryScale.strides).toEqual({ batch: 6, head: 3, token: 1 });
    expect(plan.keyScale.strides).toEqual({ batch: 8, head: 4, token: 1 });
    const bits = { type: 'bfloat16', dims: [1, 2, 4, 16], data: new Uint16Array(128) };
    expect(half({ v: bits }, { precision: 'half-int8' })()).toMatchObject({
      headDim: 8,
      headDimV: 16,
      value: { type: 'bfloat16', data: bits.data },
    });
  });

  it.each<[string, object, object, ErrorCode]>([
    ['codes for V', { v: codes([1, 2, 4, 8]) }, {}, 'ERR_ARG_TYPE'],
    ['a scale of V', { vScale: ones([1, 2, 4]) }, {}, 'ERR_ARG_RANGE'],
    ['floats for Q', { q: float([1, 2, 3, 8]) }, {}, 'ERR_ARG_TYPE'],
    ['kScale of the queries’ length', { kScale: ones([1, 2, 3]) }, {}, 'ERR_SHAPE'],
    ['V of other tokens', { v: float([1, 2, 5, 8]) }, {}, 'ERR_SHAPE'],
    ['full-int8', {}, { precision: 'full-int8' }, 'ERR_ARG_RANGE'],
    ['smoothK', {}, { smoothK: true }, 'ERR_ARG_RANGE'],
  ])('rejects %s', (_, change, options, expected) => {
    expect(half(change, options)).toThrow(expect.objectContaining({ code: expected }));
  });
});
