import { selectBackend, status } from '@int-flash/attention';
import type { Decoder, DecoderPage, DecoderSequence } from '@int-flash/ops';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { decoderSpec } from '../src/decoder-spec.js';
import { Rotary } from '../src/layers/rotary.js';
import type { ModelWeights } from '../src/model-weights.js';
import { differences, expectSameBits, randomWeights, SMALL, tokenIds } from './random-decoder.js';

// REQUIRE_CUDA=1 turns this skip into a failure (vitest.setup.ts).
const available = status().backends.some(({ name, available }) => name === 'cuda' && available);

/** Its values are rows of zeros in the first layer: there the scale that a row gets depends on the largest of all rows before it. */
const ZERO = 7;
/** Its numbers are not finite. */
const BAD = 8;
const { vocabSize, hiddenSize } = SMALL;
const IDS = tokenIds(1500, vocabSize).map((id) => (id === ZERO || id === BAD ? 9 : id));

/** Tokens from `from` on, every third of them with values of zeros. */
function someZeros(from: number, count: number): number[] {
  return IDS.slice(from, from + count).map((id, i) => (i % 3 === 0 ? ZERO : id));
}

describe.skipIf(!available).each([
  ['int8', 'token'],
  ['int4', 'token'],
  ['int8', 'channel'],
] as const)('a cache on CUDA in %s, a scale for each %s', (type, keyScales) => {
  const cuda = available ? selectBackend('cuda') : undefined!;
  let weights: ModelWeights;
  let decoder: Decoder;

  beforeAll(() => {
    const config = { ...SMALL, tiedEmbeddings: false };
    weights = randomWeights(config, cuda, 'fp32', keyScales === 'channel' ? 16 : 1); // activations in INT8 would round most differences away
    weights.embedding.fill(0, ZERO * hiddenSize, (ZERO + 1) * hiddenSize);
    weights.embedding[BAD * hiddenSize] = Number.NaN;
    const rotary = config.position.type === 'rope' ? new Rotary(config.position) : undefined;
    decoder = cuda.createDecoder!(decoderSpec(config, weights, rotary))!;
  });

  afterAll(() => {
    decoder.dispose();
    weights.dispose();
    expect(cuda.liveBytes()).toBe(0);
  });

  async function run(sequence: DecoderSequence, ids: readonly number[]): Promise<Float32Array> {
    const logits = new Float32Array(vocabSize);
    await sequence.forward(Int32Array.from(ids), logits);
    return logits;
  }

  /** Logits after each of `pieces`, some with values of zeros: what there is to compare with. */
  async function goOn(sequence: DecoderSequence, pieces: readonly number[]): Promise<Float32Array[]> {
    const all: Float32Array[] = [];
    for (const count of pieces) all.push(await run(sequence, someZeros(sequence.length, count)));
    return all;
  }

  /** The same on a sequence that never had other tokens. */
  async function fresh(pieces: readonly number[], further: readonly number[]): Promise<Float32Array[]> {
    const sequence = decoder.createSequence(type, keyScales);
    let from = 0;
    for (const count of pieces) {
      await run(sequence, IDS.slice(from, from + count));
      from += count;
    }
    const all = await goOn(sequence, further);
    sequence.dispose();
    return all;
  }

  // Pages that end everywhere; single tokens in a row, which are a graph from the third on; a call of many pages.
  const FURTHER = [1, 1, 1, 1, 5, 70, 1, 8];

  it.each([
    ['a few tokens', [70], [5], 70],
    ['the last of a few', [70], [8], 73],
    ['into the page before', [63], [1, 1, 1, 4], 64],
    ['further into it', [100], [20, 20], 90],
    ['single tokens', [70, 1, 1], [1, 1, 1], 73],
    ['a call of many pages', [70], [400], 70],
    ['the last of many', [64], [400], 460],
    ['a page', [64], [64], 64],
    ['pages', [64], [300], 192],
    ['all but a page, far back', [64], [400, 30], 64],
    ['more than 1,024 tokens', [512, 512, 60], [7], 1087],
  ] as const)('takes back %s as if they had never been there', async (_, before, detour, length) => {
    const sequence = decoder.createSequence(type, keyScales);
    const pieces: number[] = [];
    for (const count of [...before, ...detour]) {
      const piece = Math.min(count, Math.max(length - sequence.length, 0));
      if (piece > 0) pieces.push(piece);
      await run(sequence, IDS.slice(sequence.length, sequence.length + count));
    }
    sequence.truncate(length);
    expect(sequence.length).toBe(length);
    const ours = await goOn(sequence, FURTHER);
    sequence.dispose();
    expectSameBits(differences(ours, await fresh(pieces, FURTHER)));
  });

  it('takes tokens back again and again', async () => {
    const sequence = decoder.createSequence(type, keyScales);
    await run(sequence, IDS.slice(0, 120));
    for (let i = 0; i < 40; i++) {
      const { length } = sequence;
      await run(sequence, IDS.slice(200 + 10 * i, 202 + 10 * i + (i % 7)));
      sequence.truncate(length + 1);
      sequence.truncate(length);
      await run(sequence, IDS.slice(length, length + 1));
    }
    expect(sequence.length).toBe(160);
    const ours = await goOn(sequence, FURTHER);
    sequence.dispose();
    expectSameBits(differences(ours, await fresh([120, ...new Array<number>(40).fill(1)], FURTHER)));
  });

  it('is as it was after a call that failed', async () => {
    for (const count of [3, 200]) {
      const sequence = decoder.createSequence(type, keyScales);
      await run(sequence, IDS.slice(0, 70));
      await expect(run(sequence, [...IDS.slice(300, 300 + count), BAD])).rejects.toMatchObject({
        code: 'ERR_NONFINITE',
      });
      expect(sequence.length).toBe(70);
      const ours = await goOn(sequence, FURTHER);
      sequence.dispose();
      expectSameBits(differences(ours, await fresh([70], FURTHER)), ` after ${count} tokens`);
    }
  });

  it('says where it cannot go back exactly', async () => {
    const sequence = decoder.createSequence(type, keyScales);
    await run(sequence, IDS.slice(0, 70));
    await run(sequence, IDS.slice(70, 470));
    await run(sequence, IDS.slice(470, 500));
    sequence.truncate(437);
    expect(sequence.length).toBe(437); // 64 tokens back from 500 is 436
    sequence.truncate(100);
    expect(sequence.length).toBe(64);
    const ours = await goOn(sequence, FURTHER);
    sequence.dispose();
    expectSameBits(differences(ours, await fresh([64], FURTHER)));
  });

  describe('shares whole pages', () => {
    async function begun(length: number): Promise<{ sequence: DecoderSequence; pages: DecoderPage[] }> {
      const sequence = decoder.createSequence(type, keyScales);
      for (let from = 0; from < length; from += 512) await run(sequence, IDS.slice(from, Math.min(from + 512, length)));
      const pages = Array.from({ length: Math.floor(length / 64) }, (_, page) => sequence.sharePage(page)!);
      return { sequence, pages };
    }

    it.each([70, 128, 500, 1100])('of %i tokens, which outlive it', async (length) => {
      const { sequence, pages } = await begun(length);
      const bytes = cuda.liveBytes();
      const readers = [0, 1].map(() => decoder.createSequence(type, keyScales));
      for (const reader of readers) {
        reader.adoptPages(0, pages.slice(0, 1));
        reader.adoptPages(1, pages.slice(1));
        expect(reader.length).toBe(64 * pages.length);
      }
      const page = cuda.decoderMemory!(SMALL)!.pageBytes[type];
      expect(cuda.liveBytes() - bytes).toBeLessThan(page); // tables and states, no page
      sequence.dispose();
      const rest = IDS.slice(64 * pages.length, length);
      const expected = await fresh(
        Array.from({ length: Math.ceil(length / 512) }, (_, i) => Math.min(512, length - 512 * i)),
        FURTHER,
      );
      for (const reader of readers) {
        if (rest.length > 0) await run(reader, rest);
        expectSameBits(differences(await goOn(reader, FURTHER), expected));
      }
      for (const one of pages) one.dispose();
      for (const reader of readers) reader.dispose();
    });

    it('in place of pages that hold the same, and copies none', async () => {
      const first = await begun(200);
      const second = await begun(200);
      const before = cuda.liveBytes();
      for (const page of second.pages) page.dispose();
      second.sequence.adoptPages(0, first.pages);
      const page = cuda.decoderMemory!(SMALL)!.pageBytes[type];
      expect(before - cuda.liveBytes()).toBeGreaterThanOrEqual(3 * page);
      first.sequence.dispose();
      const ours = await goOn(second.sequence, FURTHER);
      expectSameBits(differences(ours, await fresh([200], FURTHER)));
      second.sequence.dispose();
      for (const one of first.pages) one.dispose();
    });

    it('and never writes them again: who goes back into one computes it anew', async () => {
      const { sequence, pages } = await begun(200);
      const reader = decoder.createSequence(type, keyScales);
      reader.adoptPages(0, pages);
      await run(reader, IDS.slice(900, 908));
      reader.truncate(195);
      expect(reader.length).toBe(195);
      reader.truncate(190);
      expect(reader.length).toBe(128);
      await run(reader, IDS.slice(700, 770));
      sequence.truncate(150);
      expect(sequence.length).toBe(128);
      await run(sequence, IDS.slice(600, 700));
      sequence.truncate(0);
      await run(sequence, IDS.slice(500, 600)); // with offsets of its own
      const other = decoder.createSequence(type, keyScales);
      other.adoptPages(0, pages);
      await run(other, IDS.slice(192, 200));
      expectSameBits(differences(await goOn(other, FURTHER), await fresh([200], FURTHER)));
      for (const one of [sequence, reader, other, ...pages]) one.dispose();
    });

    it('once they are settled: not while zeros wait for the first value', async () => {
      const sequence = decoder.createSequence(type, keyScales);
      await run(sequence, new Array<number>(70).fill(ZERO));
      expect(sequence.sharePage(0)).toBeUndefined();
      await run(sequence, IDS.slice(0, 70));
      expect(sequence.sharePage(0)).toBeUndefined(); // its scales depend on what came later
      const second = sequence.sharePage(1)!;
      expect(second).toBeDefined();
      second.dispose();
      sequence.dispose();
    });

    it('and refuses what is none', async () => {
      const { sequence, pages } = await begun(100);
      const reader = decoder.createSequence(type, keyScales);
      const refuses = (work: () => unknown, code: string) =>
        expect(work).toThrowError(expect.objectContaining({ code }));
      refuses(() => sequence.sharePage(1), 'ERR_ARG_RANGE');
      refuses(() => reader.adoptPages(1, pages), 'ERR_ARG_RANGE');
      refuses(() => sequence.adoptPages(1, pages), 'ERR_ARG_RANGE');
      refuses(() => reader.adoptPages(0, [{ dispose: () => {} }]), 'ERR_ARG_TYPE');
      const other = decoder.createSequence(type === 'int8' ? 'int4' : 'int8', keyScales);
      refuses(() => other.adoptPages(0, pages), 'ERR_ARG_TYPE');
      const third = decoder.createSequence(type, keyScales === 'token' ? 'channel' : 'token');
      refuses(() => third.adoptPages(0, pages), 'ERR_ARG_TYPE');
      const both = [sequence, third].map((one) => ({ sequence: one, ids: Int32Array.of(1) }));
      await expect(decoder.forwardBatch(both, new Float32Array(2 * vocabSize))).rejects.toMatchObject({
        code: 'ERR_ARG_TYPE',
      });
      third.dispose();
      for (const page of pages) page.dispose();
      refuses(() => reader.adoptPages(0, pages), 'ERR_DISPOSED');
      expect([reader.length, other.length, sequence.length]).toEqual([0, 0, 100]);
      for (const one of [reader, other, sequence]) one.dispose();
      refuses(() => sequence.sharePage(0), 'ERR_DISPOSED');
    });
  });
});
