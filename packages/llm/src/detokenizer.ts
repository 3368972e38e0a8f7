/** Turns token ids into text as they come; what it has returned is never taken back. */
export interface Detokenizer {
  /** The text that this token completes; empty while a character is still missing bytes. */
  push(id: number): string;
  /** What is left: an incomplete character at the very end becomes U+FFFD. */
  flush(): string;
}

export interface TokenText {
  /** The token of an id, as the vocabulary spells it. */
  token(id: number): string;
  /** Added tokens stand for their own text. */
  isAdded(id: number): boolean;
  isSkipped(id: number): boolean;
}

/**
 * For byte-level vocabularies: each character of a token is one byte, bytes become text when a character is complete.
 * An added token ends the bytes before it.
 */
export class ByteLevelDetokenizer implements Detokenizer {
  readonly #vocabulary: TokenText;
  #decoder = newDecoder();

  constructor(vocabulary: TokenText) {
    this.#vocabulary = vocabulary;
  }

  push(id: number): string {
    if (this.#vocabulary.isSkipped(id)) return '';
    const token = this.#vocabulary.token(id);
    if (this.#vocabulary.isAdded(id)) return this.flush() + token;
    return this.#decoder.decode(byteLevelBytes(token), { stream: true });
  }

  flush(): string {
    const rest = this.#decoder.decode();
    this.#decoder = newDecoder();
    return rest;
  }
}

/** A character takes at most four bytes, so at most this many byte tokens wait for the next one. */
const MAX_HELD = 3;
const REPLACEMENT = '\ufffd';

/**
 * For every other decoder: decodes a short window of ids and returns what the newest adds. A window that ends in U+FFFD may lack
 * bytes of a character, so up to three tokens are held back.
 */
export class WindowDetokenizer implements Detokenizer {
  readonly #decode: (ids: number[]) => string;
  #context: number[] = []; // already returned, but decoders look back: to the first token's space, say
  #held: number[] = [];

  constructor(decode: (ids: number[]) => string) {
    this.#decode = decode;
  }

  push(id: number): string {
    this.#held.push(id);
    const before = this.#decode(this.#context);
    const text = this.#decode([...this.#context, ...this.#held]);
    if (!text.endsWith(REPLACEMENT)) return this.#take(text.slice(before.length));
    if (this.#held.length <= MAX_HELD) return '';
    // A character that began at the oldest token would be complete by now, so that one is final; the rest may still begin one.
    const oldest = this.#held[0]!;
    const final = this.#decode([...this.#context, oldest]).slice(before.length);
    this.#context = [oldest];
    this.#held.shift();
    return final;
  }

  flush(): string {
    if (this.#held.length === 0) return '';
    const before = this.#decode(this.#context);
    return this.#take(this.#decode([...this.#context, ...this.#held]).slice(before.length));
  }

  #take(text: string): string {
    this.#context = this.#held;
    this.#held = [];
    return text;
  }
}

function newDecoder() {
  return new TextDecoder('utf-8', { ignoreBOM: true });
}

let byteOf: Map<string, number> | undefined;

/**
 * GPT-2's byte alphabet: printable Latin-1 characters stand for their own code, the other bytes, in order, for U+0100 and on.
 */
function byteAlphabet(): Map<string, number> {
  if (byteOf) return byteOf;
  byteOf = new Map();
  let next = 0x100;
  for (let byte = 0; byte < 256; byte++) {
    const isPrintable = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
    byteOf.set(String.fromCharCode(isPrintable ? byte : next++), byte);
  }
  return byteOf;
}

/** A character outside the alphabet, which no byte-level trainer writes, stands for its own UTF-8. */
export function byteLevelBytes(token: string): Uint8Array {
  const alphabet = byteAlphabet();
  const bytes: number[] = [];
  for (const char of token) {
    const byte = alphabet.get(char);
    if (byte === undefined) bytes.push(...new TextEncoder().encode(char));
    else bytes.push(byte);
  }
  return Uint8Array.from(bytes);
}
