/** What the server said was wrong, in the shape of its error bodies: `{ error: { message, type, param, code } }`. */
export class ServerError extends Error {
  override readonly name = 'ServerError';

  constructor(
    message: string,
    /** HTTP status; 0 when the server could not be reached or the stream broke off. */
    readonly status: number,
    readonly code?: string,
    /** From Retry-After. */
    readonly retryAfterSeconds?: number,
  ) {
    super(message);
  }
}

/** The error in a parsed body, or undefined when there is none in it. */
export function errorIn(body: unknown, status: number, retryAfter?: string | null): ServerError | undefined {
  const error = (body as { error?: { message?: unknown; code?: unknown } } | null)?.error;
  if (typeof error?.message !== 'string') return undefined;
  const seconds = retryAfter ? Number(retryAfter) : Number.NaN;
  return new ServerError(
    error.message,
    status,
    typeof error.code === 'string' ? error.code : undefined,
    Number.isFinite(seconds) ? seconds : undefined,
  );
}
