import { describe, expect, it } from 'vitest';
import { type ErrorCode, judgeQuantizedAttention } from '../src/index.js';
import { codeInputs } from './code-inputs.js';

describe('value scales of the pre-quantized entry', () => {
  it.each<[string, number[], number, ErrorCode]>([
    ['a scale below 2^-100', [1e-31, 1, 1, 1], 1, 'ERR_ARG_RANGE'],
    ['scales further apart than 2^100', [1e-20, 1e20, 1, 1], 1, 'ERR_ARG_RANGE'],
    ['the scale of zeros where there are codes', [2 ** -126, 1, 1, 1], 1, 'ERR_ARG_RANGE'],
    ['values above 2^100', [1, 1e29, 1, 1], 1, 'ERR_OVERFLOW'],
    ['values above 2^100 by their channels', [1e15, 1, 1, 1], 1e15, 'ERR_OVERFLOW'],
  ])('rejects %s', (_, scales, channel, expected) => {
    const inputs = codeInputs();
    inputs.v.data.fill(1);
    inputs.vScale.data.set(scales);
    inputs.vChannelScale.data.fill(channel);
    expect(() => judgeQuantizedAttention(inputs)).toThrow(expect.objectContaining({ code: expected }));
  });

  it('gives rows of zeros the largest scale, and leaves the caller’s array alone', () => {
    const inputs = codeInputs();
    inputs.v.data.fill(0, 0, 8);
    inputs.vScale.data.set([2 ** -126, 1e10, 1, 1]);
    const { valueScale } = judgeQuantizedAttention(inputs);
    expect(valueScale.data.slice(0, 3)).toEqual(Float32Array.of(1e10, 1e10, 1));
    expect(inputs.vScale.data[0]).toBe(2 ** -126);
    inputs.v.data.fill(0);
    inputs.vScale.data.fill(2 ** -126);
    expect(judgeQuantizedAttention(inputs).valueScale.data[5]).toBe(1);
  });
});
