import { type ErrorCode, IntFlashError } from '@int-flash/ops';

/** The addon throws plain errors that carry a code; everyone above expects the one error class. */
export function typedError(error: unknown): unknown {
  if (error instanceof IntFlashError) return error;
  const { code, message, bytes } = error as { code?: string; message: string; bytes?: number };
  if (typeof code !== 'string' || !code.startsWith('ERR_')) return error;
  return new IntFlashError(code as ErrorCode, message, bytes === undefined ? {} : { bytes, where: 'host' });
}
