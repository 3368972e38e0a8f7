import {
  type Backend,
  type Decoder,
  type DecoderPage,
  type DecoderPart,
  type DecoderSequence,
  type DrawPart,
  type DrawRules,
  IntFlashError,
  KV_PAGE_TOKENS,
  type LogitsPart,
} from '@int-flash/ops';

/** What a sequence takes besides its pages. */
export const SEQUENCE_BYTES = 100;
/** Tokens that are likely: the text repeats itself, so that guesses are right now and then. */
const FEW = 7;

/**
 * Stands for a backend with memory of its own. What a token gets depends on the tokens before it and on how they were cut into calls, just as far
 * as on a real one (docs/arithmetic.md): the first call's size, and beyond 1,024 keys whether a token's own call was of more than eight.
 */
export class FakeDevice {
  readonly pageBytes = { int8: 1000, int4: 600 };
  readonly tokenBytes = 200;
  /** Allocations beyond it fail. */
  capacity = Infinity;
  live = 0;
  peak = 0;
  /** Sequences that are not disposed … */
  sequences = 0;
  /** … pages that somebody keeps … */
  kept = 0;
  /** … and decoders. */
  decoders = 0;
  /** Tokens of each sequence of each step. */
  readonly steps: number[][] = [];
  /** Told of each step's tokens; what it throws, the step throws. */
  onStep: (ids: readonly Int32Array[]) => void = () => {};
  /** Told of each step as it begins. */
  onBegin: () => void = () => {};
  isLost = false;
  /** What lived when it was told to give back what it keeps. */
  readonly trims: number[] = [];
  readonly #host: Backend;
  #vocabSize = 0;

  /** @param host Holds the weights, and computes what sequences in host memory want. */
  constructor(host: Backend) {
    this.#host = host;
  }

  backend(deviceBytes = 1e9): Backend {
    return {
      ...this.#host,
      createLinear: (weights) => this.#host.createLinear(weights),
      liveBytes: () => this.live,
      trim: async () => void this.trims.push(this.live),
      decoderMemory: () => ({ deviceBytes, pageBytes: this.pageBytes, tokenBytes: this.tokenBytes }),
      createDecoder: ({ vocabSize }) => {
        this.decoders++;
        this.#vocabSize = vocabSize;
        return this.#decoder();
      },
    };
  }

  allocate(bytes: number): void {
    if (this.live + bytes > this.capacity)
      throw new IntFlashError('ERR_OOM', `Expected ${bytes} bytes of device memory`, { where: 'device', bytes });
    this.live += bytes;
    this.peak = Math.max(this.peak, this.live);
  }

  expectThere(): void {
    if (this.isLost) throw new IntFlashError('ERR_DEVICE_LOST', 'Expected a working device, got one that was lost');
  }

  /** A step over several, to the logits' seeds behind each one's tokens. */
  async step(parts: readonly DecoderPart[]): Promise<number[][]> {
    const sequences = parts.map(({ sequence }) => sequence as FakeSequence);
    this.expectThere();
    for (const [i, { ids }] of parts.entries()) sequences[i]!.reserve(ids.length);
    for (const sequence of sequences) sequence.isBusy = true;
    this.onBegin();
    await new Promise((resolve) => setImmediate(resolve));
    for (const sequence of sequences) sequence.isBusy = false;
    this.expectThere();
    this.onStep(parts.map(({ ids }) => ids));
    this.steps.push(parts.map(({ ids }) => ids.length));
    return parts.map(({ ids }, i) => sequences[i]!.compute(ids));
  }

  writeLogits(seed: number, logits: Float32Array): void {
    let state = seed;
    for (let i = 0; i < logits.length; i++) {
      state = mix(state, i);
      logits[i] = (state / 2 ** 32) * 8 + (i < FEW ? 8 : 0);
    }
  }

  get vocabSize(): number {
    return this.#vocabSize;
  }

  #decoder(): Decoder {
    return {
      createSequence: (type) => new FakeSequence(this, this.pageBytes[type]),
      forwardBatch: async (parts: readonly LogitsPart[], logits) => {
        const seeds = await this.step(parts);
        const rows = seeds.flatMap((of, i) => of.slice(-(parts[i]!.wanted ?? 1)));
        for (const [i, seed] of rows.entries())
          this.writeLogits(seed, logits.subarray(i * this.#vocabSize, (i + 1) * this.#vocabSize));
      },
      drawBatch: async (parts: readonly DrawPart[]) => {
        for (const { draw, ids } of parts) {
          if (draw.length < 1 || draw.length > ids.length)
            throw new IntFlashError(
              'ERR_ARG_RANGE',
              `Expected rules for 1 to ${ids.length} tokens, got ${draw.length}`,
            );
        }
        const seeds = await this.step(parts);
        return Int32Array.from(parts.flatMap(({ draw }, i) => drawn(seeds[i]!.slice(-draw.length), draw)));
      },
      dispose: () => void this.decoders--,
    };
  }
}

function drawn(seeds: readonly number[], draw: readonly DrawRules[]): number[] {
  return draw.map(({ temperature, uniform, vocabulary }, i) => {
    const place = (temperature === 0 ? seeds[i]! / 2 ** 32 : seeds[i]! / 2 ** 32 + uniform) % 1;
    return Math.floor(place * Math.min(FEW, vocabulary));
  });
}

/** Freed when nobody has it any more. */
class FakeMemory {
  owners = 1;
  readonly #device: FakeDevice;
  readonly #bytes: number;

  constructor(device: FakeDevice, bytes: number) {
    device.allocate(bytes);
    this.#device = device;
    this.#bytes = bytes;
  }

  drop(): void {
    if (--this.owners === 0) this.#device.live -= this.#bytes;
  }
}

class FakePage implements DecoderPage {
  readonly memory: FakeMemory;
  readonly states: readonly number[];
  readonly offset: number;
  readonly #device: FakeDevice;
  #isDisposed = false;

  constructor(device: FakeDevice, memory: FakeMemory, states: readonly number[], offset: number) {
    memory.owners++;
    device.kept++;
    this.#device = device;
    this.memory = memory;
    this.states = states;
    this.offset = offset;
  }

  dispose(): void {
    if (this.#isDisposed) return;
    this.#isDisposed = true;
    this.#device.kept--;
    this.memory.drop();
  }

  expectLive(): void {
    if (this.#isDisposed) throw new Error('the page was disposed');
  }
}

/** What {@link DecoderSequence.truncate} says of going back. */
const RECENT = 64;

class FakeSequence implements DecoderSequence {
  isBusy = false;
  readonly #device: FakeDevice;
  readonly #pageBytes: number;
  /** Behind each token. */
  readonly #states: number[] = [];
  #offset = 0;
  #pages: FakeMemory[] = [];
  #recentFrom = 1;
  #beganAt = 0;
  #isDisposed = false;

  constructor(device: FakeDevice, pageBytes: number) {
    device.allocate(SEQUENCE_BYTES);
    device.sequences++;
    this.#device = device;
    this.#pageBytes = pageBytes;
  }

  get bytes(): number {
    return this.#isDisposed ? 0 : SEQUENCE_BYTES + this.#pages.length * this.#pageBytes;
  }

  get length(): number {
    return this.#states.length;
  }

  reserve(tokens: number): void {
    this.#expectFree();
    const wanted = Math.ceil((this.length + tokens) / KV_PAGE_TOKENS);
    while (this.#pages.length < wanted) this.#pages.push(new FakeMemory(this.#device, this.#pageBytes));
    this.#beganAt = this.length;
    this.#recentFrom = Math.max(Math.min(this.#recentFrom, this.length + 1), this.length + tokens - RECENT + 1);
  }

  compute(ids: Int32Array): number[] {
    if (this.length === 0)
      this.#offset = ids.length < 8 ? 0 : ids.subarray(0, 64).reduce(mix, Math.min(ids.length, 64));
    return Array.from(ids, (id) => {
      const cut = this.length < 1024 ? 0 : ids.length <= 8 ? 1 : 2;
      const state = [id, this.#offset, cut].reduce(mix, this.#states.at(-1) ?? 1);
      this.#states.push(state);
      return state;
    });
  }

  async forward(ids: Int32Array, logits: Float32Array): Promise<void> {
    const [seeds] = await this.#device.step([{ sequence: this, ids }]);
    const { vocabSize } = this.#device;
    const wanted = seeds!.slice(-logits.length / vocabSize);
    for (const [i, seed] of wanted.entries())
      this.#device.writeLogits(seed, logits.subarray(i * vocabSize, (i + 1) * vocabSize));
  }

  truncate(length: number): void {
    this.#expectFree();
    this.#device.expectThere();
    if (length < this.length) {
      const inPage = length % KV_PAGE_TOKENS;
      const isKnown = inPage === 0 || length >= this.#recentFrom || length === this.#beganAt;
      const isShared = inPage !== 0 && this.#pages[Math.floor(length / KV_PAGE_TOKENS)]!.owners > 1;
      this.#states.length = isKnown && !isShared ? length : length - inPage;
    }
    this.#free(Math.ceil(this.length / KV_PAGE_TOKENS));
  }

  sharePage(index: number): FakePage {
    this.#expectFree();
    this.#device.expectThere();
    const states = this.#states.slice(index * KV_PAGE_TOKENS, (index + 1) * KV_PAGE_TOKENS);
    if (states.length < KV_PAGE_TOKENS) throw new Error(`page ${index} is not whole`);
    return new FakePage(this.#device, this.#pages[index]!, states, this.#offset);
  }

  adoptPages(index: number, pages: readonly FakePage[]): void {
    this.#expectFree();
    this.#device.expectThere();
    for (const [i, page] of pages.entries()) {
      page.expectLive();
      const at = index + i;
      if (at === 0) this.#offset = page.offset;
      if (at === this.#pages.length && this.length === at * KV_PAGE_TOKENS) {
        this.#states.push(...page.states);
        this.#recentFrom = this.length + 1;
      }
      // Whoever takes a page has computed, or would have, what it holds.
      if (
        page.offset !== this.#offset ||
        page.states.some((state, t) => state !== this.#states[at * KV_PAGE_TOKENS + t])
      )
        throw new Error('the page is of a sequence that began otherwise');
      page.memory.owners++;
      this.#pages[at]?.drop();
      this.#pages[at] = page.memory;
    }
  }

  dispose(): void {
    if (this.#isDisposed) return;
    this.#expectFree();
    this.#free(0);
    this.#isDisposed = true;
    this.#device.live -= SEQUENCE_BYTES;
    this.#device.sequences--;
  }

  #free(pages: number): void {
    for (const memory of this.#pages.slice(pages)) memory.drop();
    this.#pages.length = Math.min(this.#pages.length, pages);
  }

  #expectFree(): void {
    if (this.isBusy || this.#isDisposed) throw new Error('the sequence is in use, or was disposed');
  }
}

function mix(state: number, value: number): number {
  let x = Math.imul(state ^ (value + 0x9e3779b9), 0x85ebca6b);
  x = Math.imul(x ^ (x >>> 15), 0xc2b2ae35);
  return (x ^ (x >>> 13)) >>> 0;
}
