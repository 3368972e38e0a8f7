import type { Decoder, DecoderSpec } from '@int-flash/ops';
import { expect, it } from 'vitest';
import { createCudaDecoder } from '../src/cuda-decoder.js';
import { CudaLinear } from '../src/cuda-linear.js';
import type { DeviceHandle, NativeAddon } from '../src/native-addon.js';
import { isReadable, type Position, provoke, strangeValues } from './argument-matrix.js';

const VOCABULARY = 10;
const rules = { temperature: 0, topK: 0, topP: 1, minP: 0, uniform: 0, vocabulary: VOCABULARY };

/** What reached an addon that takes everything. */
const calls: [string, ...unknown[]][] = [];
const addon = new Proxy({} as NativeAddon, {
  get:
    (_, name) =>
    (...args: unknown[]) => {
      calls.push([String(name), ...args]);
      if (name === 'decoderForward') return Promise.resolve(new Array((args[2] as unknown[]).length).fill(1));
      if (name === 'decoderDraw') return Promise.resolve({ drawn: Int32Array.of(1), bytes: [1, 1] });
      return { length: 0, bytes: 0 };
    },
});

function decoderOf(): Decoder {
  const device = {} as DeviceHandle;
  const output = new CudaLinear(addon, device, {
    type: 'fp32',
    rows: 1,
    cols: 1,
    weights: new Float32Array(1),
  } as never);
  const spec = { headDim: 64, vocabSize: VOCABULARY, norm: {}, activation: 'silu', layers: [], output };
  return createCudaDecoder(addon, device, spec as unknown as DecoderSpec)!;
}

it('every bad argument of a decoder is refused with a code', async () => {
  const decoder = decoderOf();
  const sequence = decoder.createSequence('int8');
  const other = decoderOf().createSequence('int8');
  const ids = Int32Array.of(1, 2);
  const logits = new Float32Array(VOCABULARY);
  const positions: Position[] = [
    { name: 'cacheType', call: (value) => decoder.createSequence(value) },
    { name: 'keyScales', call: (value) => decoder.createSequence('int4', value) },
    { name: 'parts', call: (value) => decoder.forwardBatch(value, logits) },
    { name: 'a part', call: (value) => decoder.forwardBatch([value], logits) },
    { name: 'sequence', call: (value) => decoder.forwardBatch([{ sequence: value, ids }], logits) },
    { name: 'ids', call: (value) => decoder.forwardBatch([{ sequence, ids: value }], logits) },
    { name: 'wanted', call: (value) => decoder.forwardBatch([{ sequence, ids, wanted: value }], logits) },
    { name: 'logits', call: (value) => decoder.forwardBatch([{ sequence, ids }], value) },
    { name: 'drawn parts', call: (value) => decoder.drawBatch(value) },
    { name: 'draw', call: (value) => decoder.drawBatch([{ sequence, ids, draw: value }]) },
    { name: 'draw[0]', call: (value) => decoder.drawBatch([{ sequence, ids, draw: [value] }]) },
    { name: 'ids alone', call: (value) => sequence.forward(value, logits) },
    { name: 'logits alone', call: (value) => sequence.forward(ids, value) },
    { name: 'pages', call: (value) => sequence.adoptPages(0, value) },
    { name: 'a page', call: (value) => sequence.adoptPages(0, [value]) },
  ];
  const { untyped, refused, accepted } = await provoke(positions, strangeValues().filter(isReadable));
  expect(untyped).toEqual([]);
  expect(refused).toBeGreaterThan(400);
  expect(accepted).toBe(1); // no pages at all
  const rest: Position[] = [
    { name: 'sequence of another', call: () => decoder.forwardBatch([{ sequence: other, ids }], logits) },
    { name: 'wanted', call: () => decoder.forwardBatch([{ sequence, ids, wanted: 3 }], new Float32Array(30)) },
    { name: 'rows', call: () => decoder.forwardBatch([{ sequence, ids, wanted: 2 }], logits) },
    { name: 'rules as they were', call: () => decoder.drawBatch([{ sequence, ids, draw: rules as never }]) },
    { name: 'more rules than tokens', call: () => decoder.drawBatch([{ sequence, ids, draw: [rules, rules, rules] }]) },
    { name: 'a string', call: () => decoder.drawBatch([{ sequence, ids, draw: [{ ...rules, topK: '3' as never }] }]) },
    { name: 'half a rule', call: () => decoder.drawBatch([{ sequence, ids, draw: [{ temperature: 1 } as never] }]) },
  ];
  expect(await provoke(rest, [0])).toEqual({ refused: rest.length, accepted: 0, untyped: [] });
});

it('what is drawn and wanted reaches the addon, token by token', async () => {
  const decoder = decoderOf();
  const [first, second] = [decoder.createSequence('int8'), decoder.createSequence('int8', 'channel')];
  calls.length = 0;
  const ids = Int32Array.of(1, 2, 3);
  await decoder.drawBatch([
    {
      sequence: first,
      ids,
      draw: [rules, { ...rules, temperature: 0.5, topK: 2, topP: 0.9, minP: 0.1, uniform: 0.25 }],
    },
    { sequence: second, ids, draw: [rules] },
  ]);
  await decoder.forwardBatch(
    [
      { sequence: first, ids, wanted: 2 },
      { sequence: second, ids },
    ],
    new Float32Array(30),
  );
  await first.forward(ids, new Float32Array(30));
  await first.forward(ids, new Float32Array(10));
  await first.forward(ids.subarray(2), new Float32Array(10));
  const [drawn, ...told] = calls.map(([, , , parts]) => parts as { draw: Float64Array; wanted: number }[]);
  expect(drawn!.map(({ draw }) => [...draw])).toEqual([
    [0, 0, 1, 0, 0, 10, 0.5, 2, 0.9, 0.1, 0.25, 10],
    [0, 0, 1, 0, 0, 10],
  ]);
  expect(told.map((parts) => parts.map(({ wanted }) => wanted))).toEqual([[2, 1], [3], [1], [1]]);
  expect([first.length, second.length]).toEqual([3 + 3 + 3 + 3 + 1, 3 + 3]);
});
