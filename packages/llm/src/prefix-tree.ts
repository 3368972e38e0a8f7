import type { LayerState } from './kv-cache-layer.js';
import type { PagePool } from './page-pool.js';

/** A page whose content is known by the tokens that led to it: its own and all before. */
export interface PrefixNode {
  readonly page: number;
  /** Each layer's state behind the page's last token. */
  readonly states: readonly LayerState[];
  readonly parent: PrefixNode | undefined;
  readonly key: string;
  readonly children: Map<string, PrefixNode>;
}

/**
 * Remembers pages by what was read, so that a prompt that begins as an earlier one need not be computed from its beginning.
 *
 * Keeps its pages in the pool until they are asked back, the one that was of no use for longest first.
 */
export class PrefixTree {
  readonly #pool: PagePool;
  readonly #roots = new Map<string, Map<string, PrefixNode>>();
  /** In the order of last use; a node comes before those that lead to it. */
  readonly #byUse = new Set<PrefixNode>();

  constructor(pool: PagePool) {
    this.#pool = pool;
  }

  /**
   * @param space What besides the tokens decides a page's content.
   * @param path  The nodes that lead to it; the last of them is its parent.
   * @param ids   The page's own tokens.
   */
  find(space: string, path: readonly PrefixNode[], ids: readonly number[]): PrefixNode | undefined {
    const node = this.#children(space, path.at(-1)).get(ids.join());
    if (node) this.#touch(node);
    return node;
  }

  add(
    space: string,
    path: readonly PrefixNode[],
    ids: readonly number[],
    page: number,
    states: readonly LayerState[],
  ): PrefixNode {
    const parent = path.at(-1);
    const siblings = this.#children(space, parent);
    const node: PrefixNode = { page, states, parent, key: ids.join(), children: new Map() };
    siblings.set(node.key, node);
    this.#pool.keep(page);
    this.#touch(node);
    return node;
  }

  /** Gives back a page that no sequence holds. @returns whether there was one */
  evict(): boolean {
    for (const node of this.#byUse) {
      if (node.children.size > 0 || this.#pool.holders(node.page) > 0) continue;
      this.#byUse.delete(node);
      const siblings = node.parent?.children ?? [...this.#roots.values()].find((root) => root.get(node.key) === node);
      siblings?.delete(node.key);
      this.#pool.forget(node.page);
      return true;
    }
    return false;
  }

  #children(space: string, parent: PrefixNode | undefined): Map<string, PrefixNode> {
    if (parent) return parent.children;
    let root = this.#roots.get(space);
    if (!root) {
      root = new Map();
      this.#roots.set(space, root);
    }
    return root;
  }

  #touch(node: PrefixNode): void {
    for (let at: PrefixNode | undefined = node; at; at = at.parent) {
      this.#byUse.delete(at);
      this.#byUse.add(at);
    }
  }
}
