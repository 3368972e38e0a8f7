import type { DrawRules } from '@int-flash/ops';
import { DEVICE_CHUNK, DeviceCache } from './device-cache.js';
import type { BatchPart, PartOutcome, SequenceCache } from './device-step.js';
import type { AttentionChoice } from './layers/attention.js';
import { Pace } from './pace.js';
import { PREFILL_CHUNK, type Transformer } from './transformer.js';

/** Tokens that a sequence wants computed behind those in its cache. */
export interface SequenceWork {
  readonly ids: readonly number[];
  readonly cache: SequenceCache;
  readonly attention: AttentionChoice;
  /** Tokens of a prompt that are computed together. */
  readonly chunk?: number | undefined;
  /** A token is wanted, not its logits: see {@link BatchPart}. */
  readonly draw?: DrawRules | undefined;
  /** Wants the logits of every token, as {@link Transformer.forward} tells them. */
  readonly onLogits?: ((logits: Float32Array, first: number) => void) | undefined;
}

export interface SubmittedWork {
  /** After the last token; rejects with the signal's reason as soon as it aborts. */
  readonly outcome: Promise<PartOutcome>;
  /** Resolves when the cache is no longer in use. */
  readonly released: Promise<void>;
}

/** Work of so few tokens is an answer going on; more is a prompt being read. */
const SHORT_WORK = 8;
/** Sequences in one step: the linear layers gain nothing from more rows, and every one of them waits for all. */
const MAX_SEQUENCES = 64;
/** Logits handed out between two turns of the event loop: each is sampled at once, which takes time as the vocabulary is large. */
const LOGITS_A_TURN = 2 ** 15;

/**
 * Shares a transformer among sequences, a step at a time: schedule, run, hand out.
 *
 * A step takes one token of every answer under way and a chunk of the prompts that are being read, first come, first served; a
 * prompt with more chunks goes to the back. How a prompt is cut depends on nothing but itself, so what a sequence computes, to the
 * bit, does not depend on who else is there.
 */
export class Scheduler {
  readonly #transformer: Transformer;
  readonly #queue: Job[] = [];
  #isRunning = false;

  constructor(transformer: Transformer) {
    this.#transformer = transformer;
  }

  submit(work: SequenceWork, signal: AbortSignal): SubmittedWork {
    const job = new Job(work);
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
      await turn(); // whoever got logits in the last step may be back with the next token
      const jobs = this.#schedule();
      if (jobs.length === 0) break;
      const outcomes = await this.#compute(jobs);
      await this.#handOut(jobs, outcomes);
    }
    this.#isRunning = false;
  }

  /** Takes the jobs of the next step out of the queue. */
  #schedule(): Job[] {
    const first = this.#queue[0];
    const chosen: Job[] = [];
    let promptTokens = 0;
    for (const job of this.#queue) {
      if (job.isAlone) {
        if (job !== first) continue;
        chosen.push(job);
        break;
      }
      const count = job.next.length;
      if (count > SHORT_WORK) {
        if (promptTokens > 0 && promptTokens + count > PREFILL_CHUNK) continue;
        promptTokens += count;
      }
      chosen.push(job);
      if (chosen.length >= MAX_SEQUENCES) break;
    }
    for (const job of chosen) this.#drop(job, { isChosen: true });
    return chosen;
  }

  async #compute(jobs: readonly Job[]): Promise<PromiseSettledResult<PartOutcome>[]> {
    const step = new Step(jobs.length);
    const pace = new Pace(step.signal);
    for (const job of jobs) job.step = step;
    const parts = jobs.map(({ next, work }): BatchPart => ({ ...work, ids: next }));
    const [only] = jobs;
    if (only?.isAlone) return Promise.allSettled([this.#computeAlone(only, pace)]);
    try {
      const outcomes = await this.#transformer.forwardBatch(parts, pace);
      return outcomes.map((value) => ({ status: 'fulfilled', value }));
    } catch (reason) {
      if (parts.length === 1 || step.signal.aborted) return parts.map(() => ({ status: 'rejected', reason }));
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
      else if (outcome.status === 'rejected') job.fail(outcome.reason);
      else if (job.advance()) this.#queue.push(job);
      else {
        job.resolve(outcome.value);
        if (++handedOut % atOnce === 0) await turn();
      }
    }
  }

  #drop(job: Job, { isChosen = false } = {}): void {
    const at = this.#queue.indexOf(job);
    if (at >= 0) this.#queue.splice(at, 1);
    if (!isChosen) job.release();
  }
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
  step: Step | undefined;
  isSettled = false;
  readonly #before: number;
  #settle!: { resolve(outcome: PartOutcome): void; reject(reason: unknown): void };
  #onReleased!: () => void;

  constructor(work: SequenceWork) {
    this.work = work;
    this.#before = work.cache.length;
    this.outcome = new Promise((resolve, reject) => {
      this.#settle = { resolve, reject };
    });
    this.released = new Promise((resolve) => {
      this.#onReleased = resolve;
    });
  }

  /** Whether it cannot share a step. */
  get isAlone(): boolean {
    return this.work.onLogits !== undefined;
  }

  get next(): readonly number[] {
    const { ids, cache, chunk } = this.work;
    // Every token's logits take a vocabulary of floats apiece, so then chunks stay small on a device too.
    const usual = cache instanceof DeviceCache && !this.isAlone ? DEVICE_CHUNK : PREFILL_CHUNK;
    return ids.slice(this.at, this.at + (chunk ?? usual));
  }

  /** Counts the last part as done. @returns whether there is another */
  advance(): boolean {
    this.at += this.next.length;
    return this.at < this.work.ids.length;
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
    if (!this.work.cache.isDisposed) this.work.cache.truncate(this.#before);
    this.release();
    this.reject(reason);
  }

  release(): void {
    this.#onReleased();
  }
}

/** Lets timers, I/O and signals have their turn. */
function turn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}
