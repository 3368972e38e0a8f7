/** Counts the event loop's turns until it is stopped. */
export class TurnCount {
  turns = 0;
  #isStopped = false;

  constructor() {
    setImmediate(() => this.#count());
  }

  stop(): void {
    this.#isStopped = true;
  }

  #count(): void {
    this.turns++;
    if (!this.#isStopped) setImmediate(() => this.#count());
  }
}
