import { IntFlashError } from '@int-flash/ops';

export type ApiErrorType =
  | 'invalid_request_error'
  | 'authentication_error'
  | 'rate_limit_error'
  | 'service_unavailable'
  | 'server_error';

export interface ApiErrorBody {
  readonly error: {
    readonly message: string;
    readonly type: ApiErrorType;
    readonly param: string | null;
    readonly code: string | null;
  };
}

interface ApiErrorDetails {
  readonly param?: string | undefined;
  readonly code?: string | undefined;
  readonly headers?: Readonly<Record<string, string>>;
}

/** A refusal in OpenAI's form. The message goes to the client: no text of the request, no path, no stack. */
export class ApiError extends Error {
  readonly headers: Readonly<Record<string, string>>;
  readonly body: ApiErrorBody;

  constructor(
    readonly status: number,
    type: ApiErrorType,
    message: string,
    { param, code, headers = {} }: ApiErrorDetails = {},
  ) {
    super(message);
    this.headers = headers;
    this.body = { error: { message, type, param: param ?? null, code: code ?? null } };
  }
}

/** The request itself is at fault. */
export function invalid(message: string, param?: string, code?: string, status = 400): ApiError {
  return new ApiError(status, 'invalid_request_error', message, { param, code });
}

export function tooLarge(maxBytes: number): ApiError {
  return new ApiError(413, 'invalid_request_error', `Expected a body of at most ${maxBytes} bytes.`, {
    code: 'body_too_large',
  });
}

export function unavailable(message: string, code: string, retryAfterSeconds = 5): ApiError {
  return new ApiError(503, 'service_unavailable', message, {
    code,
    headers: { 'retry-after': String(retryAfterSeconds) },
  });
}

/** Any failure as the client sees it. What is the server's own fault it sees as such, and nothing more. */
export function asApiError(error: unknown): ApiError {
  if (error instanceof ApiError) return error;
  if (IntFlashError.isInstance(error)) {
    switch (error.code) {
      case 'ERR_TEMPLATE':
      case 'ERR_TEMPLATE_LIMIT':
        return invalid(error.message, 'messages', error.code.toLowerCase());
      case 'ERR_ARG_TYPE':
      case 'ERR_ARG_RANGE':
      case 'ERR_TOKENIZER':
      case 'ERR_TOKENIZER_LIMIT':
        return invalid(error.message, undefined, error.code.toLowerCase());
      case 'ERR_DISPOSED':
        return unavailable('The server is shutting down.', 'shutting_down');
      case 'ERR_OOM':
        return unavailable('The server has no memory for this request now.', 'out_of_memory');
      case 'ERR_DEVICE_LOST':
        return unavailable('The device that computes was lost.', 'device_lost');
    }
  }
  return new ApiError(500, 'server_error', 'The server failed at this request.', { code: 'internal_error' });
}
