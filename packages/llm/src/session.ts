import type { ByteCount } from './kv-cache.js';
import type { KvCacheDtype } from './kv-cache-layer.js';
import type { AttentionChoice } from './layers/attention.js';
import { Pace } from './pace.js';
import type { SequenceCache, Transformer } from './transformer.js';

/** Who starts sessions and ends those that are still open when it is disposed itself. */
export interface SessionOwner {
  readonly transformer: Transformer;
  readonly sessions: Set<Session>;
  readonly cacheBytes: ByteCount;
}

export interface SessionSettings {
  readonly attention: AttentionChoice;
  readonly kvCacheDtype: KvCacheDtype;
  readonly signal: AbortSignal | undefined;
  /** Tokens of a prompt that are computed together. */
  readonly chunk?: number | undefined;
}

/** One sequence on its way through a model: the sole owner of its KV cache, freed when it is closed or its signal aborts. */
export class Session {
  readonly #owner: SessionOwner;
  readonly #settings: SessionSettings;
  readonly #cache: SequenceCache;
  readonly #ended = new AbortController();
  readonly #pace = new Pace(this.#ended.signal);
  readonly #onAbort = () => void this.close(this.#settings.signal?.reason);
  #running: Promise<unknown> | undefined;

  /** @throws `signal.reason` if it is aborted already. */
  constructor(owner: SessionOwner, settings: SessionSettings) {
    settings.signal?.throwIfAborted();
    this.#owner = owner;
    this.#settings = settings;
    this.#cache = owner.transformer.createCache(settings.attention, settings.kvCacheDtype, owner.cacheBytes);
    settings.signal?.addEventListener('abort', this.#onAbort, { once: true });
    owner.sessions.add(this);
  }

  /** Tokens computed so far. */
  get length(): number {
    return this.#cache.length;
  }

  /**
   * Computes the next tokens, as {@link Transformer.forward} does. One call at a time.
   *
   * @throws the reason it was closed with.
   */
  async forward(
    ids: readonly number[],
    onLogits?: (logits: Float32Array, first: number) => void,
  ): Promise<Float32Array> {
    this.#pace.throwIfAborted();
    const { attention, chunk } = this.#settings;
    const run = { cache: this.#cache, attention, pace: this.#pace, ...(chunk === undefined ? {} : { chunk }) };
    const running = this.#owner.transformer.forward(ids, run, onLogits);
    this.#running = running;
    try {
      return await running;
    } finally {
      this.#running = undefined;
      if (this.#ended.signal.aborted) this.#cache.dispose();
    }
  }

  /** Forgets all tokens from `length` on. */
  truncate(length: number): void {
    this.#pace.throwIfAborted();
    this.#cache.truncate(length);
  }

  /**
   * Ends the session; twice is a no-op. A `forward` under way rejects with `reason` at its next rest.
   *
   * @returns when the memory is free.
   */
  async close(reason?: unknown): Promise<void> {
    if (!this.#ended.signal.aborted) {
      this.#settings.signal?.removeEventListener('abort', this.#onAbort);
      this.#ended.abort(reason);
      this.#owner.sessions.delete(this);
      if (!this.#running) this.#cache.dispose();
    }
    await this.#running?.then(ignore, ignore);
  }
}

function ignore(): void {}
