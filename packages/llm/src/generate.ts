import type { JudgedGeneration } from './generate-options.js';
import { Random } from './random.js';
import { drawRules, leavesLogits, logprobs, sample, type TokenLogprob } from './sampler.js';
import { Session, type SessionOwner } from './session.js';
import { DrawnSpeculation, Speculation } from './speculation.js';
import { StopStrings } from './stop-strings.js';
import type { Tokenizer } from './tokenizer.js';

/** One drawn token, an end token included. */
export interface GeneratedToken {
  readonly tokenId: number;
  /** The text that is certain with it: empty while a character or a possible stop string is incomplete. Joined up, the answer. */
  readonly text: string;
  /** With `logprobs`: natural log of the model's own probability of it, before temperature and penalties. */
  readonly logprob?: number;
  /** With `logprobs` > 0: the most probable tokens in its place. */
  readonly topLogprobs?: readonly TokenLogprob[];
  /** With `logprobs`: where its own text ends, in characters of all that was drawn; a stop string may have cut `text` before. */
  readonly textEnd?: number;
}

/** `stop`: an end token or a stop string. `length`: `maxTokens`, or the end of the context. */
export type FinishReason = 'stop' | 'length';

export interface GenerationStats {
  readonly promptTokens: number;
  /** End token included. */
  readonly newTokens: number;
  /** Milliseconds from the first `next()`, so reading the prompt is in it. */
  readonly timeToFirstToken: number;
  /** Of the tokens after the first, the caller's own time between them included; of all of them when there is only one. */
  readonly tokensPerSecond: number;
  readonly finishReason: FinishReason;
  readonly seed: number;
  /** With `speculate`: tokens that were guessed, and those of them that were drawn. */
  readonly guessedTokens: number;
  readonly acceptedTokens: number;
}

/** What a generation needs of its model. */
export interface GenerationModel extends SessionOwner {
  readonly tokenizer: Tokenizer;
  readonly eosTokenIds: ReadonlySet<number>;
  /** @throws {IntFlashError} `ERR_DISPOSED` */
  expectLive(): void;
}

const CANCELLED = Symbol('cancelled');

/**
 * An answer as it is being drawn. Nothing is computed before the first `next()`.
 *
 * Iterate it to the end, or leave the loop (`return()` frees the cache), or dispose it. An iterator that is simply dropped keeps
 * its cache until the model is disposed.
 */
export class Generation implements AsyncIterableIterator<GeneratedToken, void, undefined> {
  readonly promptIds: readonly number[];
  readonly #model: GenerationModel;
  readonly #options: JudgedGeneration;
  readonly #tokens: AsyncGenerator<GeneratedToken, void>;
  #session: Session | undefined;
  #stats: GenerationStats | undefined;

  constructor(model: GenerationModel, promptIds: readonly number[], options: JudgedGeneration) {
    this.promptIds = promptIds;
    this.#model = model;
    this.#options = options;
    this.#tokens = this.#draw();
  }

  /** Undefined until the last token was drawn, and for good after an error or `return()`. */
  get stats(): GenerationStats | undefined {
    return this.#stats;
  }

  /**
   * @throws `signal.reason`; IntFlashError `ERR_DISPOSED` when the model was disposed; `ERR_NONFINITE` when its weights overflow or `logitBias` bans all tokens; `ERR_OOM` when there
   * is no memory for its keys and values.
   */
  next(): Promise<IteratorResult<GeneratedToken, void>> {
    return this.#tokens.next();
  }

  /** Cancels: a `next()` under way ends the iteration. Resolves when the cache is free. */
  async return(): Promise<IteratorResult<GeneratedToken, void>> {
    await this.#session?.close(CANCELLED);
    return this.#tokens.return();
  }

  async throw(error: unknown): Promise<IteratorResult<GeneratedToken, void>> {
    await this.#session?.close(error);
    return this.#tokens.throw(error);
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.return();
  }

  /** Draws to the end and joins the text. */
  async text(): Promise<string> {
    let text = '';
    for await (const token of this) text += token.text;
    return text;
  }

  async *#draw(): AsyncGenerator<GeneratedToken, void> {
    this.#model.expectLive();
    const session = new Session(this.#model, this.#options);
    this.#session = session;
    try {
      yield* this.#drawWith(session);
    } catch (error) {
      if (error !== CANCELLED) throw error;
    } finally {
      await session.close(CANCELLED);
    }
  }

  async *#drawWith(session: Session): AsyncGenerator<GeneratedToken, void> {
    const { rules, seed, stops, attention, kvCacheDtype } = this.#options;
    const { tokenizer, eosTokenIds, transformer } = this.#model;
    const longest = transformer.contextLength(attention, kvCacheDtype) - this.promptIds.length;
    const maxTokens = Math.min(this.#options.maxTokens, longest);
    const random = new Random(seed);
    const detokenizer = tokenizer.createDetokenizer({ skipSpecialTokens: true });
    const stopStrings = new StopStrings(stops);
    const answer: number[] = [];
    let textEnd = 0;
    const ids = [...this.promptIds];
    const clock = new Stopwatch();
    // A vocabulary may be padded to a round size: rows without a token are never drawn.
    const vocabulary = Math.min(transformer.config.vocabSize, tokenizer.vocabSize);
    const most = session.isExact ? this.#options.speculate : 0;
    const isDrawn = session.canDraw && this.#options.logprobs === undefined && leavesLogits(rules);
    const speculation = isDrawn
      ? new DrawnSpeculation(session, most, () => drawRules(rules, vocabulary, random))
      : new Speculation(session, most);
    for (;;) {
      session.expectOpen(); // what was guessed needs no call that would tell
      const room = maxTokens - answer.length;
      const found = answer.length === 0 ? await speculation.first(this.promptIds) : await speculation.after(ids, room);
      const logits = typeof found === 'number' ? undefined : found;
      const tokenId =
        typeof found === 'number'
          ? found
          : sample(found.subarray(0, vocabulary), rules, { prompt: this.promptIds, answer }, random);
      answer.push(tokenId);
      ids.push(tokenId);
      clock.lap();
      const ended = eosTokenIds.has(tokenId) && !this.#options.ignoreEos;
      const last = ended || answer.length >= maxTokens;
      const piece = detokenizer.push(tokenId) + (last ? detokenizer.flush() : '');
      textEnd += piece.length;
      const text = stopStrings.push(piece) + (last ? stopStrings.flush() : '');
      const token = { tokenId, text, ...(logits && this.#logprobs(logits, tokenId, textEnd)) };
      if (last || stopStrings.found) {
        const finishReason = ended || stopStrings.found ? 'stop' : 'length';
        const counts = { promptTokens: this.promptIds.length, newTokens: answer.length };
        const guesses = { guessedTokens: speculation.guessed, acceptedTokens: speculation.accepted };
        this.#stats = { ...counts, ...clock.read(answer.length), finishReason, seed, ...guesses };
        await session.close(CANCELLED); // the caller may never come back for the end
        yield token;
        return;
      }
      yield token;
    }
  }

  #logprobs(
    logits: Float32Array,
    tokenId: number,
    textEnd: number,
  ): Pick<GeneratedToken, 'logprob' | 'topLogprobs' | 'textEnd'> {
    const wanted = this.#options.logprobs;
    if (wanted === undefined) return {};
    const { logprob, top } = logprobs(logits, tokenId, wanted);
    return wanted > 0 ? { logprob, topLogprobs: top, textEnd } : { logprob, textEnd };
  }
}

class Stopwatch {
  readonly #started = performance.now();
  #first: number | undefined;
  #last = 0;

  lap(): void {
    this.#last = performance.now();
    this.#first ??= this.#last;
  }

  read(tokens: number): Pick<GenerationStats, 'timeToFirstToken' | 'tokensPerSecond'> {
    const first = this.#first ?? this.#started;
    const milliseconds = this.#last - (tokens > 1 ? first : this.#started);
    const counted = tokens > 1 ? tokens - 1 : tokens;
    return {
      timeToFirstToken: first - this.#started,
      tokensPerSecond: (1000 * counted) / Math.max(milliseconds, 1e-3),
    };
  }
}
