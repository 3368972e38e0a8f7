import type { DrawRules } from '@int-flash/ops';
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

  /** Logits behind the prompt. */
  first(prompt: readonly number[]): Promise<Float32Array> {
    return this.#session.forward(prompt);
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

/** The same where a device draws: all that follows the drawn token and the guess, in the call that computes them. */
export class DrawnSpeculation {
  /** As {@link Speculation} has them. */
  guessed = 0;
  accepted = 0;
  readonly #session: Session;
  readonly #most: number;
  readonly #nextRules: () => DrawRules;
  /** Tokens that were drawn behind a guess that was right. */
  #ahead: number[] = [];
  /** Rules of those behind one that was wrong: what is drawn in their place takes the same random numbers. */
  #unused: DrawRules[] = [];

  /** @param nextRules For one token more, each time it is asked. */
  constructor(session: Session, most: number, nextRules: () => DrawRules) {
    this.#session = session;
    this.#most = most;
    this.#nextRules = nextRules;
  }

  /** The token that follows the prompt. */
  async first(prompt: readonly number[]): Promise<number> {
    const [token] = await this.#session.draw(prompt, [this.#nextRules()]);
    return token!;
  }

  /** As {@link Speculation.after}, but the token that follows. */
  async after(ids: readonly number[], room: number): Promise<number> {
    const known = this.#ahead.shift();
    if (known !== undefined) {
      this.accepted++;
      return known;
    }
    const guess = lookUpContinuation(ids, Math.min(this.#most, room - 1));
    this.guessed += guess.length;
    const tokens = [ids.at(-1)!, ...guess];
    const rules = tokens.map(() => this.#unused.shift() ?? this.#nextRules());
    const drawn = await this.#session.draw(tokens, rules);
    let right = 0;
    while (right < guess.length && drawn[right] === guess[right]) right++;
    if (right < guess.length) this.#session.truncate(this.#session.length - (guess.length - right));
    this.#unused.unshift(...rules.slice(right + 1));
    this.#ahead = Array.from(drawn.subarray(1, right + 1));
    return drawn[0]!;
  }
}
