/** A run over several sequences; ends early when all of them were aborted. */
export class Step {
  readonly #controller = new AbortController();
  #present: number;

  constructor(sequences: number) {
    this.#present = sequences;
  }

  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  leave(): void {
    if (--this.#present === 0) this.#controller.abort();
  }
}
