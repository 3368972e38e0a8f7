import type { PagePool } from './page-pool.js';

/** A page whose content is known by the tokens that led to it: its own and all before. */
export interface PrefixNode<State> {
  readonly page: number;
  /** What it takes, besides the page, to go on behind its last token. */
  readonly state: State;
  readonly parent: PrefixNode<State> | undefined;
  readonly key: string;
  readonly children: Map<string, PrefixNode<State>>;
}

/**
 * Remembers pages by what was read, so that a prompt that begins as an earlier one need not be computed from its beginning.
 *
 * Keeps its pages in the pool until they are asked back, the one that was of no use for longest first.
 */
export class PrefixTree<State> {
  readonly #pool: PagePool;
  readonly #onGone: (state: State) => void;
  readonly #roots = new Map<string, Map<string, PrefixNode<State>>>();
  /** In the order of last use, as {@link touch} was told; a node comes before those that lead to it. */
  readonly #byUse = new Set<PrefixNode<State>>();

  /** @param onGone Told what belonged to a page that was given back. */
  constructor(pool: PagePool, onGone: (state: State) => void = () => {}) {
    this.#pool = pool;
    this.#onGone = onGone;
  }

  /**
   * @param space What besides the tokens decides a page's content.
   * @param path  The nodes that lead to it; the last of them is its parent.
   * @param ids   The page's own tokens.
   */
  find(space: string, path: readonly PrefixNode<State>[], ids: readonly number[]): PrefixNode<State> | undefined {
    return this.#children(space, path.at(-1)).get(ids.join());
  }

  /** Arguments as those of {@link find}. */
  add(
    space: string,
    path: readonly PrefixNode<State>[],
    ids: readonly number[],
    page: number,
    state: State,
  ): PrefixNode<State> {
    const parent = path.at(-1);
    const siblings = this.#children(space, parent);
    const node: PrefixNode<State> = { page, state, parent, key: ids.join(), children: new Map() };
    siblings.set(node.key, node);
    this.#pool.keep(page);
    this.#byUse.add(node);
    return node;
  }

  /** Says that nodes were of use: from a root on, each the parent of the next. */
  touch(path: readonly PrefixNode<State>[]): void {
    for (let i = path.length - 1; i >= 0; i--) {
      this.#byUse.delete(path[i]!);
      this.#byUse.add(path[i]!);
    }
  }

  /** Gives back a page that no sequence holds. @returns whether there was one */
  evict(): boolean {
    for (const node of this.#byUse) {
      if (node.children.size > 0 || this.#pool.holders(node.page) > 0) continue;
      this.#byUse.delete(node);
      const siblings = node.parent?.children ?? [...this.#roots.values()].find((root) => root.get(node.key) === node);
      siblings?.delete(node.key);
      this.#pool.forget(node.page);
      this.#onGone(node.state);
      return true;
    }
    return false;
  }

  /** Gives back all pages that no sequence holds. */
  clear(): void {
    while (this.evict());
  }

  #children(space: string, parent: PrefixNode<State> | undefined): Map<string, PrefixNode<State>> {
    if (parent) return parent.children;
    let root = this.#roots.get(space);
    if (!root) {
      root = new Map();
      this.#roots.set(space, root);
    }
    return root;
  }
}
