import type { DrawRules } from '@int-flash/ops';
import type { PartOutcome, SequenceCache } from './device-step.js';
import type { SequenceWork, SubmittedWork } from './job.js';
import type { KvCacheDtype } from './kv-cache-layer.js';
import type { AttentionChoice } from './layers/attention.js';
import type { Scheduler } from './scheduler.js';
import type { Transformer } from './transformer.js';

/** Who starts sessions and ends those that are still open when it is disposed itself. */
export interface SessionOwner {
  readonly transformer: Transformer;
  readonly scheduler: Scheduler;
  readonly sessions: Set<Session>;
}

export interface SessionSettings {
  readonly attention: AttentionChoice;
  readonly kvCacheDtype: KvCacheDtype;
  readonly signal: AbortSignal | undefined;
  /** Tokens of a prompt that are computed together. */
  readonly chunk?: number | undefined;
}

/** Which logits a call is for: those after its last token, those after each in one array, or each chunk's as they come. */
export type WantedLogits = 'last' | 'all' | ((logits: Float32Array, first: number) => void);

/** One sequence on its way through a model: the sole owner of its KV cache, freed when it is closed or its signal aborts. */
export class Session {
  readonly #owner: SessionOwner;
  readonly #settings: SessionSettings;
  readonly #cache: SequenceCache;
  readonly #ended = new AbortController();
  readonly #onAbort = () => void this.close(this.#settings.signal?.reason);
  /** Set while the scheduler works on the cache. */
  #submitted: SubmittedWork | undefined;

  /** @throws `signal.reason` if it is aborted already. */
  constructor(owner: SessionOwner, settings: SessionSettings) {
    settings.signal?.throwIfAborted();
    this.#owner = owner;
    this.#settings = settings;
    this.#cache = owner.transformer.createCache(settings.attention, settings.kvCacheDtype);
    settings.signal?.addEventListener('abort', this.#onAbort, { once: true });
    owner.sessions.add(this);
    owner.scheduler.enter(this.#cache);
  }

  /** Tokens computed so far. */
  get length(): number {
    return this.#cache.history.length;
  }

  /** Whether several tokens get the same bits in one call as one by one, and can be taken back without a trace. */
  get isExact(): boolean {
    return this.#cache.isExact;
  }

  /**
   * Computes the next tokens, sharing steps with the other sequences of the model. One call at a time.
   *
   * @throws the reason it was closed with.
   */
  async forward(ids: readonly number[], wanted: WantedLogits = 'last'): Promise<Float32Array> {
    const onLogits = typeof wanted === 'function' ? wanted : undefined;
    return (await this.#run(ids, { onLogits, wantsAll: wanted === 'all' })) as Float32Array;
  }

  /** Whether {@link draw} is possible: the cache is on a device that draws tokens itself. */
  get canDraw(): boolean {
    return this.#cache.canDraw;
  }

  /**
   * Computes the next tokens and draws what follows the last of them, by one rule each, without logits in between. Otherwise as
   * {@link forward}.
   */
  async draw(ids: readonly number[], draw: readonly DrawRules[]): Promise<Int32Array> {
    return (await this.#run(ids, { draw })) as Int32Array;
  }

  async #run(
    ids: readonly number[],
    wanted: Pick<SequenceWork, 'draw' | 'onLogits' | 'wantsAll'>,
  ): Promise<PartOutcome> {
    this.expectOpen();
    const { attention, chunk } = this.#settings;
    const work = { ids, cache: this.#cache, attention, chunk, ...wanted };
    this.#submitted = this.#owner.scheduler.submit(work);
    try {
      return await this.#submitted.outcome;
    } finally {
      // An abort is told at once; the cache may be in use for the rest of the step.
      if (!this.#ended.signal.aborted) this.#submitted = undefined;
    }
  }

  /** @throws the reason it was closed with. */
  expectOpen(): void {
    this.#ended.signal.throwIfAborted();
  }

  /** Forgets all tokens from `length` on. */
  truncate(length: number): void {
    this.expectOpen();
    this.#cache.forget(length);
  }

  /**
   * Ends the session; twice is a no-op. A `forward` under way rejects with `reason`.
   *
   * @returns when the memory is free.
   */
  async close(reason?: unknown): Promise<void> {
    if (!this.#ended.signal.aborted) {
      this.#settings.signal?.removeEventListener('abort', this.#onAbort);
      this.#ended.abort(reason);
      this.#submitted?.abort(this.#ended.signal.reason);
    }
    if (this.#submitted) await this.#submitted.released;
    this.#cache.dispose();
    this.#owner.scheduler.leave(this.#cache);
    this.#owner.sessions.delete(this); // not before: who ends the owner waits for all that holds memory
  }
}
