import { describe, expect, it } from 'vitest';
import { ERROR_CODES, type ErrorCode, IntFlashError } from '../src/index.js';

describe('IntFlashError', () => {
  it('has a closed list of distinct codes, as the documentation gives them', () => {
    expect(new Set(ERROR_CODES).size).toBe(20);
    expect(ERROR_CODES.every((code) => /^ERR_[A-Z_]+$/.test(code))).toBe(true);
  });

  it.each(ERROR_CODES)('%s is an Error with its code and message', (code) => {
    const error = new IntFlashError(code, 'Expected 1, got 2');
    expect(error).toBeInstanceOf(Error);
    expect(error).toBeInstanceOf(IntFlashError);
    expect([error.code, error.message, error.name]).toEqual([code, 'Expected 1, got 2', 'IntFlashError']);
    expect(error instanceof TypeError).toBe(code === 'ERR_ARG_TYPE');
    expect(error instanceof RangeError).toBe(code === 'ERR_ARG_RANGE');
    expect(error.constructor).toBe(IntFlashError);
    expect(error.stack).toContain('Expected 1, got 2');
  });

  it('carries the details it was given and no others', () => {
    const cause = new Error('inner');
    const error = new IntFlashError('ERR_OOM', 'Expected memory, got none', {
      where: 'device',
      bytes: 5,
      hint: 'Ask for less.',
      cause,
    });
    expect(error).toMatchObject({ where: 'device', bytes: 5, hint: 'Ask for less.', cause });
    for (const absent of ['reason', 'field', 'offset']) expect(absent in error).toBe(false);
    expect('cause' in new IntFlashError('ERR_OOM', '')).toBe(false);
    expect(Object.keys(error).sort()).toEqual(['bytes', 'code', 'hint', 'where']);
  });

  it('recognises errors of another copy of the package, and nothing else', () => {
    const foreign = Object.assign(new Error('x'), { code: 'ERR_SHAPE' as ErrorCode });
    expect(IntFlashError.isInstance(foreign)).toBe(false);
    Object.defineProperty(foreign, Symbol.for('int-flash.error'), { value: true });
    expect(IntFlashError.isInstance(foreign)).toBe(true);
    expect(foreign instanceof IntFlashError).toBe(true);
    for (const other of [null, undefined, 5, 'x', {}, new TypeError('x')])
      expect(IntFlashError.isInstance(other)).toBe(false);
  });
});
