import { lookUpContinuation } from './prompt-lookup.js';
import type { Session } from './session.js';

/**
 * Computes several tokens of an answer in one call: the one that was drawn, and a guess at those that follow. The caller draws from the
 * logits as ever; as long as it draws what was guessed, the next logits are there already. What it draws is to the bit what it would
 * have been without.
 */
export class Speculation {
  /** Tokens guessed so far … */
  guessed = 0;
  /** … and those of them that were drawn. */
  accepted = 0;
  readonly #session: Session;
  readonly #most: number;
  /** Guessed tokens that are not drawn yet, and the logits behind each. */
  #guess: number[] = [];
  #logits: Float32Array[] = [];

  /** @param most Tokens to guess at a time. */
  constructor(session: Session, most: number) {
    this.#session = session;
    this.#most = most;
  }

  /**
   * Logits behind a token that was drawn.
   *
   * @param ids  All tokens, the drawn one last.
   * @param room Tokens that may still be drawn.
   */
  async after(ids: readonly number[], room: number): Promise<Float32Array> {
    const token = ids.at(-1)!;
    if (this.#guess.length > 0) {
      if (this.#guess[0] === token) {
        this.#guess.shift();
        this.accepted++;
        return this.#logits.shift()!;
      }
      this.#session.truncate(this.#session.length - this.#guess.length);
    }
    this.#guess = lookUpContinuation(ids, Math.min(this.#most, room - 1));
    this.guessed += this.#guess.length;
    if (this.#guess.length === 0) return this.#session.forward([token]);
    const all = await this.#session.forward([token, ...this.#guess], 'all');
    const width = all.length / (this.#guess.length + 1);
    this.#logits = this.#guess.map((_, i) => all.subarray((i + 1) * width, (i + 2) * width));
    return all.subarray(0, width);
  }
}
