import type { Decoder, DecoderSequence, KeyScales } from '@int-flash/ops';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { CudaDevice } from '../src/cuda-device.js';
import { cudaStatus } from '../src/cuda-status.js';
import { type DeviceHandle, loadNativeAddon, type NativeAddon, type SequenceHandle } from '../src/native-addon.js';
import { firstDifference } from './same-bits.js';
import { type SmallShape, smallDecoder, someIds, VOCABULARY } from './small-decoder.js';

const CACHES = [
  ['int8', 'token'],
  ['int8', 'channel'],
  ['int4', 'token'],
  ['int4', 'channel'],
] as const;

const alike = (a: Float32Array, b: Float32Array) => firstDifference(a, b) === -1;

describe.skipIf(!cudaStatus().available)('a decoder under stress', () => {
  let addon: NativeAddon;
  let handle: DeviceHandle; // of `device`, for what only tests may do
  let device: CudaDevice;
  beforeAll(() => {
    addon = loadNativeAddon().addon!;
    handle = addon.openDevice(0);
    device = new CudaDevice(addon, handle);
  });
  afterEach(async () => {
    delete process.env.INTFLASH_KEY_SPLIT;
    expect(device.liveBytes()).toBe(0);
    await device.trim(); // of some tests most of what the device has
  });
  afterAll(() => device.dispose());

  /** Decoders look for `split`, how they share out the keys of few queries, when they are made. */
  async function withDecoder(shape: SmallShape, split: string, work: (decoder: Decoder) => Promise<void>) {
    process.env.INTFLASH_KEY_SPLIT = split;
    const { decoder, dispose } = smallDecoder(addon, handle, shape);
    try {
      await work(decoder);
    } finally {
      dispose();
    }
  }

  /** Each sequence's next tokens in one step. @returns logits behind the last of each */
  async function step(decoder: Decoder, sequences: readonly DecoderSequence[], counts: readonly number[]) {
    const logits = new Float32Array(sequences.length * VOCABULARY);
    const parts = sequences.map((sequence, i) => ({ sequence, ids: someIds(counts[i]!, sequence.length, i) }));
    await decoder.forwardBatch(parts, logits);
    return logits;
  }

  /** Token `from` of a sequence's cache and what follows, with room for `room` tokens more than there are: codes of 0x80, factors of NaN. */
  const poison = (sequence: DecoderSequence, from: number, room: number) =>
    addon.poisonCache(handle, (sequence as unknown as { expectLive(): SequenceHandle }).expectLive(), from, room);

  const dispose = (sequences: readonly { dispose(): void }[]) => {
    for (const sequence of sequences) sequence.dispose();
  };

  describe.each(CACHES)('with a cache in %s and a scale for each %s', (cacheType, keyScales: KeyScales) => {
    // Pages and tiles that begin and end everywhere; calls whose keys have offsets and scales of channels, and first calls of too few; the same step often enough for its graph.
    const PIECES = [70, 1, 1, 1, 1, 8, 1, 129, 1, 3, 40, 5, 1, 2];
    const SHAPES: [string, SmallShape][] = [
      ['head dim 64', { heads: 4, kvHeads: 2, headDim: 64, maxTokens: 700, windows: [Infinity, 100] }],
      ['head dim 40', { heads: 2, kvHeads: 1, headDim: 40, maxTokens: 700, windows: [Infinity, 7] }],
      ['head dim 128', { heads: 11, kvHeads: 1, headDim: 128, maxTokens: 700, windows: [Infinity] }],
      ['head dim 256', { heads: 2, kvHeads: 2, headDim: 256, maxTokens: 700, windows: [Infinity] }],
    ];

    describe.each(['tiles', 'runs'])('keys split in %s', (split) => {
      it.each(SHAPES)('never reads what is not its tokens’: %s', async (_, shape) => {
        await withDecoder(shape, split, async (decoder) => {
          const bystander = decoder.createSequence(cacheType, keyScales);
          await poison(bystander, 0, 640);
          for (const count of [1, 2]) {
            const make = () => Array.from({ length: count }, () => decoder.createSequence(cacheType, keyScales));
            const [clean, poisoned] = [make(), make()];
            const different: string[] = [];
            for (const at of PIECES.keys()) {
              const counts = clean.map((_sequence, i) => PIECES[(at + 9 * i) % PIECES.length]!); // the second's first call is of three tokens
              const expected = await step(decoder, clean, counts);
              expect(expected.every(Number.isFinite)).toBe(true);
              // Pages behind the last one, too: the next ones of the sequence, as they come from whoever had them before.
              for (const sequence of poisoned) await poison(sequence, sequence.length, 200);
              await addon.poisonShared(handle);
              const got = await step(decoder, poisoned, counts);
              if (!alike(got, expected)) different.push(`${count} sequences, step ${at} of ${counts}`);
            }
            dispose([...clean, ...poisoned]);
            expect(different).toEqual([]);
          }
          bystander.dispose();
        });
      });
    });

    // The poison is one: with it in the last token's place no answer is the same.
    it('sees poison where a token lies', async () => {
      await withDecoder(SHAPES[0]![1], 'runs', async (decoder) => {
        const sequences = [0, 1].map(() => decoder.createSequence(cacheType, keyScales));
        const [clean, poisoned] = sequences.map((sequence) => [sequence]);
        for (const side of [clean!, poisoned!]) await step(decoder, side, [70]);
        await poison(poisoned![0]!, 69, 0);
        const expected = await step(decoder, clean!, [1]);
        const got = await step(decoder, poisoned!, [1]).catch(() => undefined); // or a number that is not finite is noticed
        expect(got !== undefined && alike(got, expected)).toBe(false);
        dispose(sequences);
      });
    });
  });

  // Who finishes last merges the others' parts: which block that is must not show.
  describe.each([
    ['int8', { heads: 4, kvHeads: 2, headDim: 64 }, [2300, 1024, 5]],
    ['int4', { heads: 16, kvHeads: 16, headDim: 128 }, [2300, 1024, 5, 2200, 1500, 2048]], // so many that a block takes several runs
  ] as const)('with a cache in %s and %o', (cacheType, heads, lengths) => {
    describe.each(['tiles', 'runs'])('keys split in %s', (split) => {
      it.each(['idle', 'with the memory taken'])('gives the same bits 1,000 times, %s', async (state) => {
        const { free } = await device.memory();
        const room = 4 * 2 ** 30;
        await using _taken = state === 'idle' ? undefined : await device.empty('uint8', [Math.max(free - room, 0)]);
        const shape = { ...heads, maxTokens: 2500, windows: [Infinity, 1500] };
        await withDecoder(shape, split, async (decoder) => {
          const sequences = lengths.map(() => decoder.createSequence(cacheType));
          await step(decoder, sequences, lengths);
          const again = async () => {
            for (const [i, sequence] of sequences.entries()) sequence.truncate(lengths[i]!);
            expect(sequences.map(({ length }) => length)).toEqual(lengths);
            return step(decoder, sequences, new Array(lengths.length).fill(1));
          };
          const first = await again();
          expect(first.every(Number.isFinite) && first.some((x) => x !== first[0])).toBe(true);
          let different = 0;
          for (let i = 0; i < 1000; i++) if (!alike(await again(), first)) different++;
          expect(different).toBe(0);
          dispose(sequences);
        });
      });
    });
  });

  describe('counts in 64 bits', () => {
    // Pages that hold all layers: those of the last lie beyond what 32 bits count, and one that was taken for another's would be overwritten between calls.
    it.each([
      ['int8', 2 ** 32],
      ['int4', 2 ** 31],
    ] as const)('inside a page, in %s: more than %d bytes', async (cacheType, least) => {
      const windows = new Array<number>(236).fill(Infinity);
      await withDecoder(
        { heads: 2048, kvHeads: 2048, headDim: 8, maxTokens: 200, windows },
        'runs',
        async (decoder) => {
          const [first, rest] = [40, 30];
          const [whole, apart] = [0, 1].map(() => decoder.createSequence(cacheType));
          const begun = await step(decoder, [whole!], [first]);
          expect(alike(await step(decoder, [apart!], [first]), begun)).toBe(true);
          expect(whole!.bytes).toBeGreaterThan(least);
          const ids = someIds(rest, first);
          const expected = new Float32Array(rest * VOCABULARY);
          await whole!.forward(ids, expected); // each layer's keys while they are new
          expect(expected.every(Number.isFinite)).toBe(true);
          const different: number[] = [];
          for (let i = 0; i < rest; i++) {
            const logits = new Float32Array(VOCABULARY);
            await apart!.forward(ids.slice(i, i + 1), logits); // all layers after every one of them
            if (!alike(logits, expected.subarray(i * VOCABULARY, (i + 1) * VOCABULARY))) different.push(i);
          }
          dispose([whole!, apart!]);
          expect(different).toEqual([]);
        },
      );
    });

    // As many sequences as take more than 2^32 bytes of pages, and one so long that partial results of all take more than 2^31 elements.
    it('pages of many sequences, and what a step adds up for them', async () => {
      const [COUNT, LONG, KINDS] = [300, 8200, 5];
      const shape = { heads: 32, kvHeads: 32, headDim: 256, maxTokens: 8300, windows: new Array(16).fill(Infinity) };
      await withDecoder(shape, 'tiles', async (decoder) => {
        /** A sequence of a kind; the last one is long. */
        const begin = async (kind: number) => {
          const sequence = decoder.createSequence('int8');
          const ids = someIds(kind === KINDS - 1 ? LONG : 20 + kind, 0, kind);
          const logits = new Float32Array(VOCABULARY);
          for (let at = 0; at < ids.length; at += 4100) await sequence.forward(ids.slice(at, at + 4100), logits);
          return sequence;
        };
        const nextOf = (kind: number) => someIds(8, 5000, kind);
        const alone: Float32Array[] = [];
        for (let kind = 0; kind < KINDS; kind++) {
          const sequence = await begin(kind);
          const logits = new Float32Array(VOCABULARY);
          await sequence.forward(nextOf(kind), logits);
          expect(logits.every(Number.isFinite)).toBe(true);
          alone.push(logits);
          sequence.dispose();
        }
        expect(alike(alone[0]!, alone[1]!)).toBe(false);
        const kindOf = (i: number) => (i === COUNT - 1 ? KINDS - 1 : i % (KINDS - 1));
        const sequences: DecoderSequence[] = [];
        for (let i = 0; i < COUNT; i++) sequences.push(await begin(kindOf(i)));
        expect(sequences.reduce((sum, { bytes }) => sum + bytes, 0)).toBeGreaterThan(2 ** 32);
        const parts = sequences.map((sequence, i) => ({ sequence, ids: nextOf(kindOf(i)) }));
        const together = new Float32Array(COUNT * VOCABULARY);
        await decoder.forwardBatch(parts, together);
        const different: number[] = [];
        for (let i = 0; i < COUNT; i++)
          if (!alike(together.subarray(i * VOCABULARY, (i + 1) * VOCABULARY), alone[kindOf(i)]!)) different.push(i);
        dispose(sequences);
        expect(different).toEqual([]);
      });
    });
  });
});
