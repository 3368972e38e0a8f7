import type { PageCounts } from './page-pool.js';
import type { PageSource } from './paged-sequence.js';

/** Pages on a device for one way of storing keys and values: counted here, and taken from its memory by the decoder when a step needs them. */
export class DevicePages implements PageSource {
  readonly #pages: number;
  #used = 0;
  /** Of the device's memory that sequences hold, with what they take besides pages. */
  bytes = 0;

  constructor(pages: number) {
    this.#pages = pages;
  }

  /** @returns false when so many are not free; then none is taken */
  take(pages: number): boolean {
    if (this.#used + pages > this.#pages) return false;
    this.#used += pages;
    return true;
  }

  drop(pages: number): void {
    this.#used -= pages;
  }

  counts(): PageCounts {
    return { pages: this.#pages, used: this.#used, kept: 0 };
  }
}
