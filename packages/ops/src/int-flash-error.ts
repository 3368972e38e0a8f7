/** Every code an {@link IntFlashError} can carry. The list is closed: callers may switch on it exhaustively. */
export const ERROR_CODES = [
  'ERR_ARG_TYPE',
  'ERR_ARG_RANGE',
  'ERR_SHAPE',
  'ERR_NONFINITE',
  'ERR_OVERFLOW',
  'ERR_BUFFER_DETACHED',
  'ERR_BUFFER_SHARED',
  'ERR_BUFFER_RESIZABLE',
  'ERR_DISPOSED',
  'ERR_UNSUPPORTED',
  'ERR_OOM',
  'ERR_CUDA',
  'ERR_DEVICE_LOST',
  'ERR_ABORTED',
  'ERR_MODEL_FORMAT',
  'ERR_MODEL_LIMIT',
  'ERR_TOKENIZER',
  'ERR_TOKENIZER_LIMIT',
  'ERR_TEMPLATE',
  'ERR_TEMPLATE_LIMIT',
] as const;

export type ErrorCode = (typeof ERROR_CODES)[number];

/** Why a backend cannot run here; carried by `ERR_UNSUPPORTED` and `ERR_CUDA`, and by `status()`. */
export type UnavailableReason =
  | 'driver-missing'
  | 'driver-too-old'
  | 'no-device'
  | 'arch-not-built'
  | 'addon-not-installed'
  | 'addon-load-failed';

/** What an error knows beyond its message. Every field is optional and present only where it means something. */
export interface ErrorDetails {
  /** What the caller can do about it, one sentence. */
  readonly hint?: string;
  readonly cause?: unknown;
  readonly reason?: UnavailableReason;
  /** `ERR_MODEL_*`: the field of the file at fault, e.g. `tensors.lm_head.weight.data_offsets`. */
  readonly field?: string;
  /** `ERR_MODEL_*`: byte offset in the file. */
  readonly offset?: number;
  /** `ERR_OOM`: which memory ran out … */
  readonly where?: 'host' | 'device';
  /** … and how much was asked for. */
  readonly bytes?: number;
}

// Registered globally, so that two copies of this package in one process recognise each other's errors.
const MARKER = Symbol.for('int-flash.error');

/**
 * The one error class. `code` is stable, messages read "Expected X, got Y" and may change.
 *
 * `ERR_ARG_TYPE` errors are also `instanceof TypeError`, `ERR_ARG_RANGE` errors also `instanceof RangeError`, as in Node itself.
 * An aborted operation does not use this class: it rejects with `signal.reason`.
 */
export class IntFlashError extends Error {
  readonly code: ErrorCode;
  declare readonly hint?: string;
  declare readonly reason?: UnavailableReason;
  declare readonly field?: string;
  declare readonly offset?: number;
  declare readonly where?: 'host' | 'device';
  declare readonly bytes?: number;

  constructor(code: ErrorCode, message: string, details: ErrorDetails = {}) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause });
    if (code === 'ERR_ARG_TYPE') Object.setPrototypeOf(this, ArgumentTypeError);
    if (code === 'ERR_ARG_RANGE') Object.setPrototypeOf(this, ArgumentRangeError);
    this.code = code;
    const { cause: _cause, ...fields } = details;
    for (const [key, value] of Object.entries(fields)) if (value !== undefined) Object.assign(this, { [key]: value });
    Object.defineProperty(this, MARKER, { value: true });
    Object.defineProperty(this, 'name', { value: 'IntFlashError', configurable: true, writable: true });
  }

  /** True for errors of this class from any copy of the package; `instanceof` answers the same. */
  static isInstance(value: unknown): value is IntFlashError {
    return typeof value === 'object' && value !== null && (value as Record<symbol, unknown>)[MARKER] === true;
  }

  static override [Symbol.hasInstance](value: unknown): boolean {
    return IntFlashError.isInstance(value);
  }
}

const ArgumentTypeError = Object.create(TypeError.prototype, { constructor: { value: IntFlashError } });
const ArgumentRangeError = Object.create(RangeError.prototype, { constructor: { value: IntFlashError } });
