import { type DrawRules, KV_PAGE_TOKENS } from '@int-flash/ops';
import type { BatchPart, PartOutcome, SequenceCache } from './device-step.js';
import type { AttentionChoice } from './layers/attention.js';
import type { PageShare } from './page-share.js';
import { FEW_QUERIES } from './replay.js';
import type { Step } from './step.js';
import { PREFILL_CHUNK } from './transformer.js';

/** Tokens that a sequence wants computed behind those in its cache. */
export interface SequenceWork {
  readonly ids: readonly number[];
  readonly cache: SequenceCache;
  readonly attention: AttentionChoice;
  /** Tokens of a prompt that are computed together. */
  readonly chunk?: number | undefined;
  /** Tokens are wanted, not logits: see {@link BatchPart}. Where there are several, all of `ids` are computed together. */
  readonly draw?: readonly DrawRules[] | undefined;
  /** Wants the logits of every token, as {@link Transformer.forward} tells them. */
  readonly onLogits?: ((logits: Float32Array, first: number) => void) | undefined;
  /** Wants the logits after each token at the end; all of `ids` are computed together. */
  readonly wantsAll?: boolean | undefined;
}

export interface SubmittedWork {
  readonly outcome: Promise<PartOutcome>;
  /** Resolves when the cache is no longer in use. */
  readonly released: Promise<void>;
  /** Rejects the outcome at once; no-op when the work is done. Not by a signal: to listen to one takes as long as a small layer. */
  abort(reason: unknown): void;
}

/** Chunks of several prompts in a step that no answer waits for: the more, the later the first prompt ends. */
const SHARED_CHUNKS = 4;

/** A sequence's work on its way through the steps. */
export class Job implements SubmittedWork {
  readonly work: SequenceWork;
  readonly outcome: Promise<PartOutcome>;
  /** Tokens computed so far. */
  at = 0;
  /** What the next step computes. */
  next: readonly number[] = [];
  step: Step | undefined;
  isSettled = false;
  readonly #share: PageShare;
  readonly #onAbort: (job: Job) => void;
  readonly #before: number;
  #isReplay = false;
  #settle!: { resolve(outcome: PartOutcome): void; reject(reason: unknown): void };
  #isReleased = false;
  #released: Promise<void> | undefined;
  #onReleased: () => void = () => {};

  /** @param onAbort Told when work that is not done is rejected from outside. */
  constructor(work: SequenceWork, share: PageShare, onAbort: (job: Job) => void) {
    this.work = work;
    this.#share = share;
    this.#onAbort = onAbort;
    this.#before = work.cache.history.length;
    this.outcome = new Promise((resolve, reject) => {
      this.#settle = { resolve, reject };
    });
    if (this.#sharesPages && this.#before === 0) share.ask(work.ids.length);
  }

  /** Whether it cannot share a step. */
  get isAlone(): boolean {
    return this.work.onLogits !== undefined && this.work.cache.missing === 0;
  }

  /** Whether what comes next is many tokens, of which a step takes no more than a chunk or a few. */
  get isPrompt(): boolean {
    return this.next.length > FEW_QUERIES && !this.isAlone;
  }

  /** Whether how much of it comes next was decided here. */
  get isCutHere(): boolean {
    return this.#isReplay || (this.work.chunk === undefined && !this.isAlone && !this.#isGuess);
  }

  get part(): BatchPart {
    const { work, next } = this;
    const { wantsAll, draw } = work;
    return this.#isReplay
      ? { ...work, ids: next, wantsAll: false, draw: draw?.slice(0, 1) }
      : { ...work, ids: next, wantsAll, draw };
  }

  /** Decides what comes next: tokens to compute again, or a chunk of those to be computed, less what others computed already. */
  prepare(isLong: boolean): void {
    const { ids, cache } = this.work;
    if (this.#sharesPages) this.at += this.#share.adopt(cache, ids, this.at);
    const { missing } = cache;
    this.#isReplay = missing > 0;
    this.next = this.#isReplay
      ? cache.history.slice(cache.length, cache.length + this.#cutReplay(missing, isLong))
      : ids.slice(this.at, this.at + this.#cut(ids.length - this.at, isLong));
  }

  /** Tokens of several prompts in a step. */
  budget(isLong: boolean): number {
    return isLong ? Math.min(this.chunk(true), SHARED_CHUNKS * this.chunk(false)) : this.chunk(false);
  }

  chunk(isLong: boolean): number {
    const { cache, onLogits } = this.work;
    // Every token's logits take a vocabulary of floats apiece, so then chunks stay small on a device too.
    const usual = onLogits ? PREFILL_CHUNK : (cache.chunk ?? PREFILL_CHUNK);
    return (isLong && !onLogits && cache.longChunk) || usual;
  }

  #cutReplay(rest: number, isLong: boolean): number {
    return this.work.cache.longChunk === undefined ? rest : this.#withoutFew(rest, isLong);
  }

  #cut(rest: number, isLong: boolean): number {
    const { chunk, cache } = this.work;
    if (this.#isGuess) return rest; // of a guess all is wanted, however prompts are cut
    if (chunk !== undefined || cache.longChunk === undefined) return Math.min(chunk ?? this.chunk(false), rest);
    return this.#withoutFew(rest, isLong);
  }

  /** A chunk, or a page less where so little would be left that by itself it got other bits than as part of a longer call. */
  #withoutFew(rest: number, isLong: boolean): number {
    const chunk = this.chunk(isLong);
    if (rest <= chunk) return rest;
    return rest - chunk > FEW_QUERIES ? chunk : chunk - KV_PAGE_TOKENS;
  }

  /** Gets pages for what comes next. @returns false when it has to wait for some */
  makeRoom(): boolean {
    const { cache, ids } = this.work;
    const rest = ids.length - this.at;
    const name = this.#sharesPages ? cache.nextPage(ids.slice(this.at, this.at + KV_PAGE_TOKENS + 1)) : undefined;
    return this.#share.makeRoom(cache, this.next.length, cache.history.length - cache.length + rest, name);
  }

  /** Counts the last part as done. @returns whether there is another */
  advance(): boolean {
    const { ids, cache } = this.work;
    cache.settle(this.next);
    // Of tokens that were only guessed, the wrong ones are still to be taken back.
    if (!this.#isGuess) cache.publish();
    if (!this.#isReplay) this.at += this.next.length;
    return this.at < ids.length;
  }

  resolve(outcome: PartOutcome): void {
    this.isSettled = true;
    this.release();
    this.#settle.resolve(outcome);
  }

  reject(reason: unknown): void {
    this.isSettled = true;
    this.#settle.reject(reason);
  }

  /** Leaves the cache as it was, where nobody was told of anything before. */
  fail(reason: unknown): void {
    const { cache } = this.work;
    try {
      if (!this.isSettled && !cache.isDisposed) cache.forget(this.#before);
    } catch {
      // A cache that cannot go back is of no use to its owner, who hears why the work failed.
    }
    this.release();
    this.reject(reason);
  }

  abort(reason: unknown): void {
    if (this.isSettled) return;
    this.reject(reason);
    this.#onAbort(this);
  }

  get released(): Promise<void> {
    this.#released ??= new Promise((resolve) => {
      this.#onReleased = resolve;
      if (this.#isReleased) resolve();
    });
    return this.#released;
  }

  release(): void {
    this.#isReleased = true;
    this.#onReleased();
  }

  /** Whether it may take over what others computed: not where each token's logits are wanted, or its chunks would be cut elsewhere. */
  get #sharesPages(): boolean {
    const { chunk, cache, onLogits } = this.work;
    const isUsual = chunk === undefined || (cache.longChunk === undefined && chunk === this.chunk(false));
    return onLogits === undefined && !this.#isGuess && isUsual;
  }

  /** Whether something is wanted of each of its tokens, most of which are guesses as a rule. */
  get #isGuess(): boolean {
    const { wantsAll = false, draw = [] } = this.work;
    return wantsAll || draw.length > 1;
  }
}
