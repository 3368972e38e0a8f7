import type { EngineToken } from './engine.js';

/** A token that an answer's log-probabilities tell of. */
export interface ToldToken extends EngineToken {
  /** Where its text begins, in characters of the answer. */
  readonly start: number;
}

/**
 * Picks the tokens that an answer with log-probabilities tells of: those of whose text some was returned. Where a stop string may cut
 * the text, a token is held back until that is certain.
 */
export class ToldTokens {
  readonly #canBeCut: boolean;
  readonly #held: ToldToken[] = [];
  #drawn = 0;
  #returned = 0;

  constructor(canBeCut: boolean) {
    this.#canBeCut = canBeCut;
  }

  /** Those that are certain with this one, in order. */
  push(token: EngineToken): ToldToken[] {
    this.#held.push({ ...token, start: this.#drawn });
    this.#returned += token.text.length;
    this.#drawn = token.textEnd ?? this.#returned;
    const isWhole = token.finishReason !== undefined && this.#drawn === this.#returned;
    if (!this.#canBeCut || isWhole) return this.#held.splice(0);
    const uncertain = this.#held.findIndex(({ start }) => start >= this.#returned);
    return this.#held.splice(0, uncertain < 0 ? this.#held.length : uncertain);
  }
}
