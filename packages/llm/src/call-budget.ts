import type { Backend } from '@int-flash/ops';
import type { Pace } from './pace.js';

/** The event loop waits as long as a call to the backend takes. */
const CALL_MS = 8;
/** Multiply-adds of the first call, when nothing is known of the machine: 10 to 20 ms on one slow core. */
const FIRST_CALL = { portable: 2 ** 24, cpu: 2 ** 28, cuda: 2 ** 34 };
/** So few tokens are always one call: cut further, they would cost more in reading the weights again than they save. */
export const FEW_TOKENS = 16;
/** Attention adds the keys of 8 queries or fewer in another order (docs/arithmetic.md): no part of more is so short. */
const MIN_PART = 9;

/** In multiply-adds. */
export interface CallCost {
  /** Whatever the tokens: no call has so few of them that this is most of its work. */
  readonly aCall: number;
  readonly aToken: number;
}

/** Cuts work of one kind over many tokens into calls of a few milliseconds, by what the calls before took. */
export class CallBudget {
  readonly #learns: boolean;
  #work: number;

  /** @param learns Not where the bits depend on how tokens are cut: then every call gets what the first one does. */
  constructor(backend: Backend['name'], learns: boolean) {
    this.#learns = learns;
    this.#work = FIRST_CALL[backend];
  }

  /** Calls `run` for even parts [from, to) of the tokens, one after the other. */
  async spend(tokens: number, cost: CallCost, pace: Pace, run: (from: number, to: number) => void): Promise<void> {
    const { aCall, aToken } = cost;
    const most = Math.max(Math.floor((this.#work - aCall) / aToken), Math.ceil(aCall / aToken), FEW_TOKENS);
    const parts = Math.max(Math.min(Math.ceil(tokens / most), Math.floor(tokens / MIN_PART)), 1);
    for (let part = 0; part < parts; part++) {
      const from = Math.floor((part * tokens) / parts);
      const to = Math.floor(((part + 1) * tokens) / parts);
      const start = performance.now();
      run(from, to);
      this.#learn(aCall + (to - from) * aToken, performance.now() - start);
      if (pace.isDue) await pace.rest();
    }
  }

  /** Half of it: a call may have been interrupted. */
  #learn(work: number, milliseconds: number): void {
    if (this.#learns) this.#work = (this.#work + (work / Math.max(milliseconds, 0.01)) * CALL_MS) / 2;
  }
}
