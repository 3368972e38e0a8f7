/** Pages that the allocator tries to leave whole for one sequence: a run of 1,024 tokens, which backends read without copying where its pages follow each other. */
const BLOCK = 16;

/** How a pool's pages are used right now. */
export interface PageCounts {
  readonly pages: number;
  /** Held by sequences, each page counted once however many share it. */
  readonly used: number;
  /** Held by no sequence, but kept for prompts that begin alike; given away when there is nothing free. */
  readonly kept: number;
}

/** Of several pools together. */
export function sumCounts(all: Iterable<PageCounts>): PageCounts {
  const sum = { pages: 0, used: 0, kept: 0 };
  for (const { pages, used, kept } of all) {
    sum.pages += pages;
    sum.used += used;
    sum.kept += kept;
  }
  return sum;
}

/**
 * Hands out pages by number, and counts who holds each: sequences, and besides them whoever keeps its content for later.
 *
 * A page is free when nobody holds it.
 */
export class PagePool {
  readonly pages: number;
  readonly #holders: Uint32Array;
  readonly #isKept: Uint8Array;
  readonly #freeInBlock: Uint8Array;
  #free: number;
  #used = 0;

  constructor(pages: number) {
    this.pages = pages;
    this.#holders = new Uint32Array(pages);
    this.#isKept = new Uint8Array(pages);
    this.#free = pages;
    this.#freeInBlock = Uint8Array.from({ length: Math.ceil(pages / BLOCK) }, (_, i) =>
      Math.min(BLOCK, pages - i * BLOCK),
    );
  }

  get free(): number {
    return this.#free;
  }

  counts(): PageCounts {
    return { pages: this.pages, used: this.#used, kept: this.pages - this.#free - this.#used };
  }

  holders(page: number): number {
    return this.#holders[page]!;
  }

  isKept(page: number): boolean {
    return this.#isKept[page] === 1;
  }

  /**
   * Takes a free page for a sequence: the one behind `after` if it is free, else one where the sequence can go on for long.
   *
   * @returns undefined when nothing is free.
   */
  take(after?: number): number | undefined {
    if (this.#free === 0) return undefined;
    const next = after === undefined ? this.pages : after + 1;
    const page = next < this.pages && this.#isFree(next) ? next : this.#firstOfEmptiestBlock();
    this.hold(page);
    return page;
  }

  /** Counts a sequence as a holder of a page. */
  hold(page: number): void {
    if (this.#isFree(page)) this.#count(page, -1);
    if (this.#holders[page]!++ === 0) this.#used++;
  }

  /** The opposite. */
  drop(page: number): void {
    if (--this.#holders[page]! > 0) return;
    this.#used--;
    if (this.#isFree(page)) this.#count(page, 1);
  }

  /** Keeps a page that a sequence holds. */
  keep(page: number): void {
    this.#isKept[page] = 1;
  }

  /** The opposite. */
  forget(page: number): void {
    this.#isKept[page] = 0;
    if (this.#isFree(page)) this.#count(page, 1);
  }

  #isFree(page: number): boolean {
    return this.#holders[page] === 0 && this.#isKept[page] === 0;
  }

  #count(page: number, change: 1 | -1): void {
    this.#free += change;
    this.#freeInBlock[Math.floor(page / BLOCK)]! += change;
  }

  #firstOfEmptiestBlock(): number {
    let best = 0;
    for (let block = 0; block < this.#freeInBlock.length && this.#freeInBlock[best]! < BLOCK; block++) {
      if (this.#freeInBlock[block]! > this.#freeInBlock[best]!) best = block;
    }
    let page = best * BLOCK;
    while (!this.#isFree(page)) page++;
    return page;
  }
}
