import { type ErrorCode, IntFlashError } from '@int-flash/ops';

/** What the caller knows about a JSON text: how to name it in an error and what it may hold. */
export interface JsonSource {
  /** Named in errors, e.g. `config.json`. */
  readonly name: string;
  /** For text that is not JSON or holds a key twice. */
  readonly code: ErrorCode;
  /** For text that is nested too deep or has too many keys. */
  readonly limitCode: ErrorCode;
  /** Bytes in front of the text in its file; default 0. */
  readonly offset?: number;
  /** Containers inside containers; default 64. */
  readonly maxDepth?: number;
  /** Keys in one object; default 2^20. */
  readonly maxKeys?: number;
  /** Refuses every number that is not written as plain digits: `1.0`, `-0` and `1e3` are no offsets. */
  readonly plainIntegers?: boolean;
}

const DEFAULT_MAX_DEPTH = 64;
const DEFAULT_MAX_KEYS = 2 ** 20;
const [TAB, LINE_FEED, RETURN, SPACE] = [0x09, 0x0a, 0x0d, 0x20];
const [QUOTE, BACKSLASH, COLON] = [0x22, 0x5c, 0x3a];
const [OPEN_BRACKET, CLOSE_BRACKET, OPEN_BRACE, CLOSE_BRACE] = [0x5b, 0x5d, 0x7b, 0x7d];

/**
 * Decodes UTF-8 strictly; `TextDecoder`'s default would turn broken bytes into U+FFFD and so merge different names.
 *
 * @throws {IntFlashError} `source.code`.
 */
export function decodeUtf8(bytes: Uint8Array, source: JsonSource): string {
  try {
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch (cause) {
    throw new IntFlashError(source.code, `Expected ${source.name} to be UTF-8, got other bytes`, {
      field: source.name,
      offset: source.offset ?? 0,
      cause,
    });
  }
}

/**
 * `JSON.parse` for untrusted files: a key that appears twice, and nesting or objects beyond the limits, are errors.
 *
 * `JSON.parse` alone keeps the last of two equal keys, so two readers of one file could see different tensors; and it takes
 * any depth, on which a later recursive walk overflows the stack.
 * @throws {IntFlashError} `source.code` or `source.limitCode`, with the byte offset where the scan stopped.
 */
export function parseJsonText(text: string, source: JsonSource): unknown {
  scan(text, source);
  try {
    return JSON.parse(text);
  } catch (cause) {
    throw new IntFlashError(source.code, `Expected ${source.name} to be JSON, got a syntax error`, {
      field: source.name,
      offset: source.offset ?? 0,
      cause,
    });
  }
}

/** Follows strings and brackets only; text that is not JSON gets through here and fails in `JSON.parse`. */
function scan(text: string, source: JsonSource): void {
  const maxDepth = source.maxDepth ?? DEFAULT_MAX_DEPTH;
  const maxKeys = source.maxKeys ?? DEFAULT_MAX_KEYS;
  const open: (Set<string> | undefined)[] = []; // keys seen in each open object; undefined for an array
  for (let i = 0; i < text.length; i++) {
    const char = text.charCodeAt(i);
    if (char === QUOTE) {
      const end = endOfString(text, i);
      const keys = open[open.length - 1];
      if (keys && text.charCodeAt(skipSpace(text, end + 1)) === COLON) {
        const key = readKey(text.slice(i, end + 1));
        if (keys.has(key)) throw failed(source.code, text, i, source, `to hold each key once, got ${quote(key)} twice`);
        keys.add(key);
        if (keys.size > maxKeys) {
          throw failed(source.limitCode, text, i, source, `to hold at most ${maxKeys} keys in an object, got more`);
        }
      }
      i = end;
    } else if (char === OPEN_BRACE || char === OPEN_BRACKET) {
      open.push(char === OPEN_BRACE ? new Set() : undefined);
      if (open.length > maxDepth) {
        throw failed(source.limitCode, text, i, source, `to be nested at most ${maxDepth} deep, got deeper`);
      }
    } else if (char === CLOSE_BRACE || char === CLOSE_BRACKET) {
      open.pop();
    } else if (source.plainIntegers && isNumberMark(char) && isInNumber(text, i)) {
      throw failed(source.code, text, i, source, 'to write its numbers as plain digits, got a sign, point or exponent');
    }
  }
}

function endOfString(text: string, start: number): number {
  for (let i = start + 1; i < text.length; i++) {
    const char = text.charCodeAt(i);
    if (char === BACKSLASH) i++;
    else if (char === QUOTE) return i;
  }
  return text.length;
}

function skipSpace(text: string, start: number): number {
  let i = start;
  for (; i < text.length; i++) {
    const char = text.charCodeAt(i);
    if (char !== SPACE && char !== LINE_FEED && char !== RETURN && char !== TAB) break;
  }
  return i;
}

/** Escapes are resolved, so that `"a"` and `"\u0061"` are seen to be the same key. */
function readKey(literal: string): string {
  if (!literal.includes('\\')) return literal.slice(1, -1);
  try {
    return JSON.parse(literal);
  } catch {
    return literal; // not JSON; the parse after the scan says so
  }
}

/** `-`, `+`, `.`, `e`, `E`. */
function isNumberMark(char: number): boolean {
  return char === 0x2d || char === 0x2b || char === 0x2e || char === 0x65 || char === 0x45;
}

/** Tells `1e3` from the `e` of `true` and `false`: a sign stands before a digit, the other marks after one. */
function isInNumber(text: string, at: number): boolean {
  const neighbour = text.charCodeAt(text.charCodeAt(at) === 0x2d ? at + 1 : at - 1);
  return neighbour >= 0x30 && neighbour <= 0x39;
}

function failed(code: ErrorCode, text: string, at: number, source: JsonSource, expectation: string): IntFlashError {
  return new IntFlashError(code, `Expected ${source.name} ${expectation}`, {
    field: source.name,
    offset: (source.offset ?? 0) + new TextEncoder().encode(text.slice(0, at)).length,
  });
}

/** A name from a file, short and without control characters, for an error message. */
export function quote(name: string): string {
  return JSON.stringify(name.length > 80 ? `${name.slice(0, 77)}...` : name);
}
