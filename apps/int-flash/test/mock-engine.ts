import { once } from 'node:events';
import type { Engine, EngineToken } from '../src/serve/engine.js';

export interface MockOptions {
  /** Milliseconds a token takes; 0 = none at all, but a turn of the event loop. */
  readonly tokenMs?: number;
  /** The second token of every answer, and with it all behind it, comes when this resolves: what a test does meanwhile may take its time. */
  readonly held?: Promise<unknown>;
  readonly contextLength?: number;
  /** Thrown in place of the token of this number. */
  readonly failAt?: { readonly token: number; readonly error: unknown };
  readonly text?: (index: number) => string;
}

export interface MockEngine extends Engine {
  /** Tokens drawn so far, by all requests. */
  readonly drawn: number;
  /** Sequences that were given a cache so far. */
  readonly begun: number;
  readonly isDisposed: boolean;
}

const VOCABULARY = 256;
const CACHE_BYTES = 1024;

/** A model of 256 tokens, the bytes, that says the same to everybody and takes as long as it is told. */
export function mockEngine(options: MockOptions = {}): MockEngine {
  const { tokenMs = 0, held: hold, contextLength = 1024, failAt, text = (i) => `w${i} ` } = options;
  let held = 0;
  let drawn = 0;
  let begun = 0;
  let isDisposed = false;

  return {
    name: 'mock',
    facts: {
      backend: { name: 'portable', available: true, detail: 'a mock', isa: 'none', threads: 1 },
      attention: 'int8',
      kvCacheDtype: 'int8',
      kvKeyScales: 'token',
      eosToken: '</s>',
      sampling: { temperature: 1, topP: 1, topK: 0, minP: 0 },
    },
    contextLength,
    vocabSize: VOCABULARY,
    hasChatTemplate: true,
    longestToken: 1,
    encodeText: (said) => [...Buffer.from(said)],
    encodeChat: (turns) => [...Buffer.from(turns.map(({ content }) => content).join('\n'))],
    tokenText: (id) => ({ text: String.fromCharCode(id), bytes: [id] }),
    isEnd: () => false,
    async *generate(_ids, { maxTokens, logprobs, stop = [] }, signal): AsyncGenerator<EngineToken, void> {
      signal.throwIfAborted();
      held++;
      begun++;
      let textEnd = 0;
      try {
        for (let i = 0; i < maxTokens; i++) {
          // A signal on each sleep would cost more than the mock is to cost.
          await new Promise((resolve) => (tokenMs > 0 ? setTimeout(resolve, tokenMs) : setImmediate(resolve)));
          if (i > 0 && hold) await Promise.race([hold, once(signal, 'abort')]);
          signal.throwIfAborted();
          if (failAt?.token === i) throw failAt.error;
          drawn++;
          const piece = text(i);
          textEnd += piece.length;
          const isStopped = stop.some((end) => piece.includes(end));
          const isLast = isStopped || i === maxTokens - 1;
          yield {
            tokenId: i % VOCABULARY,
            text: isStopped ? '' : piece,
            ...(isLast ? { finishReason: isStopped ? 'stop' : 'length' } : {}),
            ...(logprobs === undefined ? {} : { logprob: -0.5, topLogprobs: [{ tokenId: 1, logprob: -0.5 }], textEnd }),
          };
          if (isLast) return;
        }
      } finally {
        held--;
      }
    },
    held: () => ({ sequences: held, kvCacheBytes: held * CACHE_BYTES }),
    cache: () => ({
      pages: 64,
      usedPages: held,
      keptPages: 5,
      promptTokens: 900,
      foundTokens: 320,
      preemptions: 7,
    }),
    dispose: async () => {
      isDisposed = true;
    },
    get drawn() {
      return drawn;
    },
    get begun() {
      return begun;
    },
    get isDisposed() {
      return isDisposed;
    },
  };
}
