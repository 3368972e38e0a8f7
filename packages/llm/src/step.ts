/** A run over several sequences; ends early when all of them were aborted. Not by an AbortController: making one takes as long as a small layer. */
export class Step {
  #present: number;

  constructor(sequences: number) {
    this.#present = sequences;
  }

  get aborted(): boolean {
    return this.#present === 0;
  }

  leave(): void {
    this.#present--;
  }

  throwIfAborted(): void {
    if (this.aborted) throw new DOMException('This operation was aborted', 'AbortError');
  }
}
