import { eventLoopTurn } from '@int-flash/ops';
import type { PartOutcome, SequenceCache } from './device-step.js';
import { Job, type SequenceWork, type SubmittedWork } from './job.js';
import { isOutOfMemory, noFreePage } from './out-of-memory.js';
import { Pace } from './pace.js';
import { PageShare } from './page-share.js';
import type { PagedSequence, PageSource } from './paged-sequence.js';
import { Readers } from './readers.js';
import { FEW_QUERIES } from './replay.js';
import { Step } from './step.js';
import type { Transformer } from './transformer.js';

/** Sequences in one step: the linear layers gain nothing from more rows, and every one of them waits for all. */
const MAX_SEQUENCES = 64;
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
  readonly #share = new PageShare((cache) => this.#isWaitedFor(cache));
  /** Steps run within its slices. */
  readonly #pace = new Pace();
  readonly #readers = new Readers();
  readonly #onAbort = (job: Job): void => {
    if (job.step) job.step.leave();
    else this.#drop(job);
  };
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
    this.#readers.delete(cache);
    this.#share.leave(cache);
    this.#readers.wake(); // there may be pages now
  }

  submit(work: SequenceWork): SubmittedWork {
    const job = new Job(work, this.#share, this.#onAbort);
    this.#queue.push(job);
    if (!this.#isRunning) void this.#run();
    else this.#readers.wake();
    return job;
  }

  async #run(): Promise<void> {
    this.#isRunning = true;
    let jobs: readonly Job[] = [];
    try {
      for (;;) {
        jobs = [];
        await this.#pause(this.#expectsOthers);
        const waiting = this.#queue.length;
        if (waiting === 0) break;
        jobs = this.#schedule();
        if (jobs.length > 0) await this.#handOut(jobs, await this.#compute(jobs));
        else if (this.#queue.length === waiting) await this.#waitForPages();
      }
    } catch (reason) {
      for (const job of [...jobs, ...this.#queue.splice(0)]) job.fail(reason);
    }
    this.#isRunning = false;
  }

  /** Nobody gets on without the pages of one who may be back soon; or, should that ever be, without pages that nobody can give. */
  async #waitForPages(): Promise<void> {
    if (this.#readers.wereExpected) return this.#readers.next();
    const first = this.#queue[0]!;
    first.fail(noFreePage(first.work.cache.canDraw ? 'device' : 'host'));
    this.#drop(first);
  }

  /** Whether somebody may still come for this step: whoever got logits in the last one, or begins in the same moment as another. */
  get #expectsOthers(): boolean {
    return this.#share.sequences > 1 || this.#queue.some(({ work }) => work.cache.history.length === 0);
  }

  /** @param forOthers Whether they shall have their turn, though the slice is not used up. */
  #pause(forOthers = true): Promise<void> | undefined {
    if (this.#pace.isDue) return this.#pace.rest();
    return forOthers ? eventLoopTurn() : undefined;
  }

  /** Takes the jobs of the next step out of the queue: some, if there are any and they need not wait for pages of one whose reader may be back soon. */
  #schedule(): Job[] {
    const chosen: Job[] = [];
    this.#share.beginStep();
    this.#readers.beginStep();
    this.#choose(chosen);
    for (const pool of this.#share.starved()) {
      this.#share.clearIdle(pool);
      this.#choose(chosen, pool);
    }
    for (const job of chosen) this.#drop(job, { isChosen: true });
    return chosen;
  }

  /** Adds jobs to those of a step. @param pool Only those that are not in it because of these pages; undefined: all */
  #choose(chosen: Job[], pool?: PageSource): void {
    const failed: Job[] = [];
    let promptTokens = chosen.reduce((sum, job) => sum + (job.isPrompt ? job.next.length : 0), 0);
    for (const job of this.#queue) {
      if (chosen.length >= MAX_SEQUENCES || chosen[0]?.isAlone) break;
      if (pool && job.work.cache.pool !== pool) continue;
      if (job.isAlone && chosen.length > 0) continue;
      try {
        if (!this.#prepare(job, promptTokens)) continue;
      } catch (reason) {
        job.fail(reason);
        failed.push(job);
        continue;
      }
      if (job.isPrompt) promptTokens += job.next.length;
      chosen.push(job);
    }
    for (const job of failed) this.#drop(job);
  }

  /** @param promptTokens That are in the step already. @returns false when it has to wait */
  #prepare(job: Job, promptTokens: number): boolean {
    if (this.#share.mustWait(job.work.cache)) return false;
    const isQuiet = this.#takesLong && !this.#readers.hasOthers(job.work.cache); // a token shall not wait long
    job.prepare(isQuiet && this.#queue.length === 1);
    if (job.isPrompt && promptTokens > 0 && promptTokens + job.next.length > job.budget(isQuiet)) return false;
    return job.makeRoom();
  }

  async #compute(jobs: readonly Job[]): Promise<PromiseSettledResult<PartOutcome>[]> {
    const step = new Step(jobs.length);
    const pace = this.#pace.with(step);
    for (const job of jobs) job.step = step;
    const parts = jobs.map((job) => job.part);
    const [only] = jobs;
    if (only?.isAlone) return Promise.allSettled([this.#computeAlone(only, pace)]);
    try {
      const outcomes = await this.#transformer.forwardBatch(parts, pace);
      return outcomes.map((value) => ({ status: 'fulfilled', value }));
    } catch (reason) {
      if (parts.length === 1 || step.aborted) return parts.map(() => ({ status: 'rejected', reason }));
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
      job.step = undefined;
      try {
        if (!this.#conclude(job, outcomes[i]!)) continue;
        if (++handedOut % atOnce === 0 && i + 1 < jobs.length) await this.#pause();
      } catch (reason) {
        job.fail(reason);
      }
    }
  }

  /** @returns whether logits were handed out */
  #conclude(job: Job, outcome: PromiseSettledResult<PartOutcome>): boolean {
    if (job.isSettled) job.release();
    else if (outcome.status === 'rejected') {
      if (!this.#retries(job, outcome.reason)) job.fail(outcome.reason);
    } else if (job.advance()) this.#queue.push(job);
    else {
      this.#readers.add(job.work.cache);
      job.resolve(outcome.value);
      return outcome.value instanceof Float32Array;
    }
    return false;
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
    if (isChosen) return;
    job.release();
    this.#readers.wake();
  }

  #isWaitedFor(cache: PagedSequence): boolean {
    return this.#queue.some(({ work }) => work.cache === cache) || this.#readers.isExpected(cache);
  }
}

/** Whether prompts were given more of a step than one chunk, and not because somebody asked for it. */
function isLong(jobs: readonly Job[]): boolean {
  const ours = jobs.filter((job) => job.isCutHere && job.next.length > FEW_QUERIES);
  const tokens = ours.reduce((sum, { next }) => sum + next.length, 0);
  return ours.some((job) => tokens > job.chunk(false));
}
