import { type ErrorCode, IntFlashError } from '@int-flash/ops';
import { expect } from 'vitest';

/** The message of what `call` throws or rejects with, an IntFlashError of that code. */
export async function refusal(call: () => unknown, code: ErrorCode = 'ERR_ARG_TYPE'): Promise<string> {
  let error: unknown;
  try {
    await call();
  } catch (caught) {
    error = caught;
  }
  expect(error).toBeInstanceOf(IntFlashError);
  expect((error as IntFlashError).code).toBe(code);
  return (error as IntFlashError).message;
}
