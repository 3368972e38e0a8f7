import { type DrawRules, eventLoopTurn, KV_PAGE_TOKENS } from '@int-flash/ops';
import type { BatchPart, PartOutcome, SequenceCache } from './device-step.js';
import type { AttentionChoice } from './layers/attention.js';
import { isOutOfMemory } from './out-of-memory.js';
import { Pace } from './pace.js';
import { PageShare } from './page-share.js';
import { FEW_QUERIES } from './replay.js';
import { PREFILL_CHUNK, type Transformer } from './transformer.js';

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
  /** Rejects with the signal's reason as soon as it aborts. */
  readonly outcome: Promise<PartOutcome>;
  /** Resolves when the cache is no longer in use. */
  readonly released: Promise<void>;
}

/** Sequences in one step: the linear layers gain nothing from more rows, and every one of them waits for all. */
const MAX_SEQUENCES = 64;
/** Chunks of several prompts in a step that no answer waits for: the more, the later the first prompt ends. */
const SHARED_CHUNKS = 4;
/** Logits handed out between two turns of the event loop: each is sampled at once, which takes time as the vocabulary is large. */
const LOGITS_A_TURN = 2 ** 15;

/**
 * Shares a transformer among sequences, a step at a time: schedule, run, hand out.
 *
 * A step takes one token of every answer under way and a chunk of the prompts that are being read, first come, first served; a
 * prompt with more chunks goes to the back. How a prompt is cut depends on nothing but itself, or has no effect on its bits: then
 * steps are longer while nobody is being answered, and a prompt alone is read in long chunks. So what a sequence computes, to the bit,
 * does not depend on who else is there. Whose turn it is to hold pages of the cache, a {@link PageShare} decides.
 */
export class Scheduler {
  readonly #transformer: Transformer;
  readonly #queue: Job[] = [];
  readonly #share = new PageShare((cache) => this.#queue.some(({ work }) => work.cache === cache));
  /** Of what is between steps; each step has its own. */
  readonly #pace = new Pace();
  /** Those who got what they wanted and are still there: the next step may be a token of theirs, which shall not wait long. */
  readonly #answered = new Set<SequenceCache>();
  #isRunning = false;
  /** False once the memory ended before the longest step did. */
  #takesLong = true;

  constructor(transformer: Transformer) {
    this.#transformer = transformer;
  }

  /** How often a sequence's pages were taken for another so far, to be computed again. */
  get preemptions(): number {
    return this.#share.preemptions;
  }

  /** Prompt tokens that came from earlier prompts so far, of all that were asked for. */
  get prefixes(): { readonly found: number; readonly asked: number } {
    return this.#share.prefixes;
  }

  /** Tells of a sequence to come: those that came earlier have the better right to pages. */
  enter(cache: SequenceCache): void {
    this.#share.enter(cache);
  }

  leave(cache: SequenceCache): void {
    this.#answered.delete(cache);
    this.#share.leave(cache);
  }

  submit(work: SequenceWork, signal: AbortSignal): SubmittedWork {
    const job = new Job(work, this.#share);
    const onAbort = () => {
      job.reject(signal.reason);
      if (job.step) job.step.leave();
      else this.#drop(job);
    };
    signal.addEventListener('abort', onAbort, { once: true });
    void job.released.then(() => signal.removeEventListener('abort', onAbort));
    this.#queue.push(job);
    if (signal.aborted) onAbort();
    else if (!this.#isRunning) void this.#run();
    return job;
  }

  async #run(): Promise<void> {
    this.#isRunning = true;
    for (;;) {
      await this.#pause(); // whoever got logits in the last step may be back with the next token
      const jobs = this.#schedule();
      if (jobs.length === 0) break;
      const outcomes = await this.#compute(jobs);
      await this.#handOut(jobs, outcomes);
    }
    this.#isRunning = false;
  }

  #pause(): Promise<void> {
    return this.#pace.isDue ? this.#pace.rest() : eventLoopTurn();
  }

  /** Takes the jobs of the next step out of the queue: some, if there are any. */
  #schedule(): Job[] {
    let chosen = this.#choose();
    if (chosen.length === 0 && this.#queue.length > 0) {
      this.#share.clearIdle();
      chosen = this.#choose();
    }
    for (const job of chosen) this.#drop(job, { isChosen: true });
    return chosen;
  }

  #choose(): Job[] {
    const chosen: Job[] = [];
    let promptTokens = 0;
    this.#share.beginStep();
    for (const job of this.#queue) {
      if (job.isAlone && chosen.length > 0) continue;
      const isQuiet = this.#takesLong && this.#answered.size === Number(this.#answered.has(job.work.cache));
      job.prepare(isQuiet && this.#queue.length === 1);
      const count = job.next.length;
      const isPrompt = count > FEW_QUERIES && !job.isAlone;
      if (isPrompt && promptTokens > 0 && promptTokens + count > job.budget(isQuiet)) continue;
      if (!job.makeRoom()) continue;
      if (isPrompt) promptTokens += count;
      chosen.push(job);
      if (job.isAlone || chosen.length >= MAX_SEQUENCES) break;
    }
    return chosen;
  }

  async #compute(jobs: readonly Job[]): Promise<PromiseSettledResult<PartOutcome>[]> {
    const step = new Step(jobs.length);
    const pace = new Pace(step.signal);
    for (const job of jobs) job.step = step;
    const parts = jobs.map((job) => job.part);
    const [only] = jobs;
    if (only?.isAlone) return Promise.allSettled([this.#computeAlone(only, pace)]);
    try {
      const outcomes = await this.#transformer.forwardBatch(parts, pace);
      return outcomes.map((value) => ({ status: 'fulfilled', value }));
    } catch (reason) {
      if (parts.length === 1 || step.signal.aborted) return parts.map(() => ({ status: 'rejected', reason }));
      if (isOutOfMemory(reason) && isLong(jobs)) this.#takesLong = false;
    }
    // One of them is at fault. By itself each ends as it would have without the others.
    const outcomes: PromiseSettledResult<PartOutcome>[] = [];
    for (const part of parts) {
      const alone = this.#transformer.forwardBatch([part], pace).then(([outcome]) => outcome!);
      outcomes.push(...(await Promise.allSettled([alone])));
    }
    return outcomes;
  }

  #computeAlone({ work, next, at }: Job, pace: Pace): Promise<Float32Array> {
    const run = { ...work, pace, chunk: next.length };
    return this.#transformer.forward(next, run, (logits, first) => work.onLogits?.(logits, at + first));
  }

  async #handOut(jobs: readonly Job[], outcomes: readonly PromiseSettledResult<PartOutcome>[]): Promise<void> {
    const { vocabSize } = this.#transformer.config;
    const atOnce = Math.max(Math.floor(LOGITS_A_TURN / vocabSize), 1);
    let handedOut = 0;
    for (const [i, job] of jobs.entries()) {
      const outcome = outcomes[i]!;
      job.step = undefined;
      if (job.isSettled) job.release();
      else if (outcome.status === 'rejected') {
        if (!this.#retries(job, outcome.reason)) job.fail(outcome.reason);
      } else if (job.advance()) this.#queue.push(job);
      else {
        this.#answered.add(job.work.cache);
        job.resolve(outcome.value);
        if (outcome.value instanceof Float32Array && ++handedOut % atOnce === 0) await this.#pause();
      }
    }
  }

  /** Where the memory does not last for a long step, there are none from now on. @returns whether the job is in the queue again */
  #retries(job: Job, reason: unknown): boolean {
    if (!isOutOfMemory(reason) || !this.#takesLong || !isLong([job])) return false;
    this.#takesLong = false;
    this.#queue.unshift(job);
    return true;
  }

  #drop(job: Job, { isChosen = false } = {}): void {
    const at = this.#queue.indexOf(job);
    if (at >= 0) this.#queue.splice(at, 1);
    if (!isChosen) job.release();
  }
}

/** Whether prompts were given more of a step than one chunk, and not because somebody asked for it. */
function isLong(jobs: readonly Job[]): boolean {
  const ours = jobs.filter((job) => job.isCutHere && job.next.length > FEW_QUERIES);
  const tokens = ours.reduce((sum, { next }) => sum + next.length, 0);
  return ours.some((job) => tokens > job.chunk(false));
}

/** A run over several sequences; ends early when all of them were aborted. */
class Step {
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

class Job implements SubmittedWork {
  readonly work: SequenceWork;
  readonly outcome: Promise<PartOutcome>;
  readonly released: Promise<void>;
  /** Tokens computed so far. */
  at = 0;
  /** What the next step computes. */
  next: readonly number[] = [];
  step: Step | undefined;
  isSettled = false;
  readonly #share: PageShare;
  readonly #before: number;
  #isReplay = false;
  #settle!: { resolve(outcome: PartOutcome): void; reject(reason: unknown): void };
  #onReleased!: () => void;

  constructor(work: SequenceWork, share: PageShare) {
    this.work = work;
    this.#share = share;
    this.#before = work.cache.history.length;
    this.outcome = new Promise((resolve, reject) => {
      this.#settle = { resolve, reject };
    });
    this.released = new Promise((resolve) => {
      this.#onReleased = resolve;
    });
    if (this.#sharesPages && this.#before === 0) share.ask(work.ids.length);
  }

  /** Whether it cannot share a step. */
  get isAlone(): boolean {
    return this.work.onLogits !== undefined && this.work.cache.missing === 0;
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
    if (this.#sharesPages) this.at += this.#share.adopt(cache, ids.slice(this.at));
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

  /** Leaves the cache as it was. */
  fail(reason: unknown): void {
    const { cache } = this.work;
    if (!cache.isDisposed) cache.forget(this.#before);
    this.release();
    this.reject(reason);
  }

  release(): void {
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
