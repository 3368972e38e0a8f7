import type { PagedSequence } from './paged-sequence.js';

/**
 * Who was answered comes back with the next token as a rule, after a little work of its own: within a millisecond or a few, later where the event loop is
 * busy. Whoever takes longer pauses. The price of waiting is at most this long a pause for somebody else, once for each reader that pauses; the price of
 * not waiting is all of a sequence computed again, for each of its tokens.
 */
const RETURN_MS = 50;

/** Those who got what they wanted and are still there: the next step may be a token of theirs. */
export class Readers {
  readonly #answeredAt = new Map<PagedSequence, number>();
  #wereExpected = false;
  #wake: () => void = () => {};

  add(cache: PagedSequence): void {
    this.#answeredAt.set(cache, performance.now());
  }

  delete(cache: PagedSequence): void {
    this.#answeredAt.delete(cache);
  }

  /** Whether there are others than the one of this sequence. */
  hasOthers(cache: PagedSequence): boolean {
    return this.#answeredAt.size > Number(this.#answeredAt.has(cache));
  }

  /** Whether its reader was answered a moment ago, and does not pause. */
  isExpected(cache: PagedSequence): boolean {
    const isExpected = this.#timeLeft(cache) > 0;
    this.#wereExpected ||= isExpected;
    return isExpected;
  }

  beginStep(): void {
    this.#wereExpected = false;
  }

  /** Whether {@link isExpected} said so of anybody in this step. */
  get wereExpected(): boolean {
    return this.#wereExpected;
  }

  /** Resolves when {@link wake} is called, and at the latest when the next one who is expected begins to pause. */
  async next(): Promise<void> {
    let wait = Infinity;
    for (const cache of this.#answeredAt.keys()) {
      const left = this.#timeLeft(cache);
      if (left > 0) wait = Math.min(wait, left);
    }
    if (wait < Infinity) await this.#sleep(wait);
  }

  /** Says that somebody came back, or left. */
  wake(): void {
    this.#wake();
  }

  async #sleep(milliseconds: number): Promise<void> {
    await new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, milliseconds);
      this.#wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
    this.#wake = () => {};
  }

  #timeLeft(cache: PagedSequence): number {
    return (this.#answeredAt.get(cache) ?? -Infinity) + RETURN_MS - performance.now();
  }
}
