import { FEW_QUERIES, RUN_KEYS, replayLength } from './replay.js';

/** The tokens that were computed of a sequence, and how many in each call: what it takes to compute them again to the same bits. */
export class CallHistory {
  readonly #ids: number[] = [];
  readonly #calls: number[] = [];

  get ids(): readonly number[] {
    return this.#ids;
  }

  get length(): number {
    return this.#ids.length;
  }

  /** Tokens of one more call. */
  add(ids: readonly number[]): void {
    for (const id of ids) this.#ids.push(id); // spread out as arguments, those of a long prompt overflow the stack
    this.#calls.push(ids.length);
  }

  /** Forgets all tokens from `length` on. */
  forget(length: number): void {
    let over = this.#ids.length - length;
    this.#ids.length = Math.min(this.#ids.length, length);
    while (over > 0) {
      const last = this.#calls.pop()!;
      if (last > over) this.#calls.push(last - over);
      over -= last;
    }
  }

  /** Tokens to compute again in the next call where only the first `done` are there; 0 when all are. @param isExact As {@link replayLength} has it. */
  missing(done: number, isExact: boolean): number {
    return done < this.#ids.length ? replayLength(this.#calls, done, isExact) : 0;
  }

  /** Whether what comes behind the first `done` tokens is computed again by a call like its first one, of few tokens or of more, where that matters. */
  canGoOnAt(done: number): boolean {
    let start = 0;
    let end = 0;
    for (const tokens of this.#calls) {
      start = end;
      end += tokens;
      if (end > done) break;
    }
    return start === done || end <= RUN_KEYS || end - start <= FEW_QUERIES || end - done > FEW_QUERIES;
  }
}
