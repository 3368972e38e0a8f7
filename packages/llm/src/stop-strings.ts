/**
 * Watches streamed text for stop strings. Text that may be the beginning of one is held back until it is certain not to be, so
 * what was returned never has to be taken back.
 */
export class StopStrings {
  readonly #stops: readonly string[];
  #held = '';
  #found = false;

  /** @param stops Non-empty strings. */
  constructor(stops: readonly string[]) {
    this.#stops = stops;
  }

  /** Whether a stop string came; text from its first character on is dropped. */
  get found(): boolean {
    return this.#found;
  }

  /** The text that is certain now: of several stop strings the one that begins first counts. */
  push(text: string): string {
    if (this.#found) return '';
    const all = this.#held + text;
    const starts = this.#stops.map((stop) => all.indexOf(stop)).filter((start) => start >= 0);
    // A stop string that begins earlier may still be incomplete while a later one is complete already.
    const open = this.#openFrom(all);
    const first = Math.min(...starts);
    if (first <= open && first < Infinity) {
      this.#found = true;
      this.#held = '';
      return all.slice(0, first);
    }
    this.#held = all.slice(open);
    return all.slice(0, open);
  }

  /** The end: what was held back did not become a stop string, unless a complete one is in it. */
  flush(): string {
    const held = this.#held;
    this.#held = '';
    if (this.#found) return '';
    const starts = this.#stops.map((stop) => held.indexOf(stop)).filter((start) => start >= 0);
    if (starts.length === 0) return held;
    this.#found = true;
    return held.slice(0, Math.min(...starts));
  }

  /** Where the earliest suffix of `all` starts that is a proper beginning of a stop string; its length if there is none. */
  #openFrom(all: string): number {
    const longest = Math.max(0, ...this.#stops.map((stop) => stop.length - 1));
    for (let from = Math.max(0, all.length - longest); from < all.length; from++) {
      const suffix = all.slice(from);
      if (this.#stops.some((stop) => stop.length > suffix.length && stop.startsWith(suffix))) return from;
    }
    return all.length;
  }
}
