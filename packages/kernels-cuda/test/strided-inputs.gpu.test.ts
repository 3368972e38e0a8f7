import { type FloatType, fromFloat32, type TensorData, toFloat32 } from '@int-flash/ops';
import { encodePerTokenInt4, quantizePerTokenInt8 } from '@int-flash/quant';
import { describe, expect, it } from 'vitest';
import type { CudaDevice } from '../src/cuda-device.js';
import { cudaStatus } from '../src/cuda-status.js';
import type { CudaTensor } from '../src/cuda-tensor.js';
import type { CudaAttentionInputs, CudaAttentionOptions, CudaAttentionResult } from '../src/device-attention.js';
import { BASELINES } from '../src/native-request.js';
import { reach } from '../src/strided-memory.js';
import { forwardVariants } from './forward-variants.js';
import { disposeAll, downloaded, placesOf, useGpuDevice } from './gpu-device.js';
import { normalNumbers } from './normal-numbers.js';
import { expectSameBits } from './same-bits.js';

// Rows that lie anywhere in a larger memory, with NaN all around: an answer has to have the bits that the same numbers give from aligned, contiguous memory.
const TYPES = ['float32', 'float16', 'bfloat16'] as const;
const [BATCH, HEADS, KV_HEADS, QUERIES, KEYS] = [2, 4, 2, 70, 200];
type Dims = readonly [batch: number, heads: number, tokens: number, dim: number];

/** Where element [b, h, t, d] lies. */
interface Place {
  readonly strides: readonly number[];
  readonly elementOffset: number;
}
/** `nth`: 0, 1 and 2 for query, key and value, which are to lie differently. */
const LAYOUTS: readonly (readonly [string, (dims: Dims, nth: number) => Place])[] = [
  [
    'contiguous, from an odd element',
    ([, heads, tokens, dim], nth) => ({
      strides: [heads * tokens * dim, tokens * dim, dim, 1],
      elementOffset: 2 * nth + 1,
    }),
  ],
  [
    'odd row strides',
    ([, heads, tokens, dim], nth) => {
      const [token, head] = [dim + 3 + 2 * nth, tokens * (dim + 3 + 2 * nth) + 1];
      return { strides: [heads * head + 1, head, token, 1], elementOffset: 2 * nth };
    },
  ],
  [
    'odd row strides, from an odd element',
    ([, heads, tokens, dim], nth) => {
      const [token, head] = [dim + 1 + 2 * nth, tokens * (dim + 1 + 2 * nth)];
      return { strides: [heads * head, head, token, 1], elementOffset: 5 - 2 * nth };
    },
  ],
  [
    'heads by turns',
    ([, heads, tokens, dim]) => ({ strides: [tokens * heads * dim, dim, heads * dim, 1], elementOffset: 0 }),
  ],
  [
    'heads by turns, nothing aligned',
    ([, heads, tokens, dim], nth) => ({
      strides: [tokens * heads * (dim + 1), dim + 1, heads * (dim + 1), 1],
      elementOffset: 2 * nth + 3,
    }),
  ],
  [
    'aligned with gaps', // of 16 bytes and more
    ([, heads, tokens, dim]) => ({
      strides: [heads * tokens * (dim + 16), tokens * (dim + 16), dim + 16, 1],
      elementOffset: 16,
    }),
  ],
  [
    'heads that are the same rows',
    ([, , tokens, dim], nth) => ({ strides: [tokens * (dim + nth) + 7, 0, dim + nth, 1], elementOffset: nth }),
  ],
  [
    'sequences that are the same rows',
    ([, , tokens, dim], nth) => ({ strides: [0, tokens * (dim + 8), dim + 8, 1], elementOffset: 8 * nth }),
  ],
];
const DIMS = [
  [64, 64],
  [128, 128],
  [40, 72],
  [256, 256],
] as const;

const narrow = (data: Float32Array, type: FloatType) =>
  type === 'float32' ? data : (fromFloat32(data, type) as Uint16Array);
const widen = (data: TensorData, type: FloatType) =>
  type === 'float32' ? (data as Float32Array) : toFloat32(data as Uint16Array, type);

interface Attender {
  readonly name: string;
  attend(inputs: CudaAttentionInputs, options: CudaAttentionOptions): Promise<CudaAttentionResult>;
}

describe.skipIf(!cudaStatus().available)('inputs that lie anywhere', () => {
  let device: CudaDevice;
  useGpuDevice((opened) => {
    device = opened;
  });

  /** A memory of which only what `dims` reach at `place` are numbers, or codes that are never -128, and the view of those. */
  async function placed(type: FloatType | 'int8', dims: Dims, { strides, elementOffset }: Place, seed: number) {
    const span = reach(dims, strides);
    const length = elementOffset + span + 9;
    const numbers = normalNumbers(length, seed);
    const isCodes = type === 'int8';
    const data = new Float32Array(length).fill(isCodes ? -128 : Number.NaN);
    for (const i of placesOf(dims, strides)) {
      const at = elementOffset + i;
      data[at] = isCodes ? Math.max(-127, Math.min(Math.round(30 * numbers[at]!), 127)) : numbers[at]!;
    }
    const typed = isCodes ? Int8Array.from(data) : narrow(data, type);
    const memory = await device.upload({ type, dims: [length], data: typed });
    return { memory, view: memory.view(dims, { strides, elementOffset }) };
  }

  /** The same numbers one behind the other. */
  async function contiguous(view: CudaTensor): Promise<CudaTensor> {
    const data = await downloaded(view);
    const numbers = view.type === 'int8' ? data : widen(data, view.type as FloatType);
    expect(numbers.some((x) => !Number.isFinite(x) || x === -128)).toBe(false);
    return device.upload({ type: view.type, dims: view.dims, data });
  }

  const attenders = (headDim: number): Attender[] => [
    ...forwardVariants(headDim).map((variant) => ({
      name: `${variant.precision}, ${variant.kernel}`,
      attend: (inputs: CudaAttentionInputs, options: CudaAttentionOptions) =>
        device.attention(inputs, { ...options, ...variant }),
    })),
    {
      name: 'fp32',
      attend: (inputs, options) => device.attention(inputs, { ...options, precision: 'fp32' }),
    },
    ...BASELINES.map((baseline) => ({
      name: baseline,
      attend: (inputs: CudaAttentionInputs, options: CudaAttentionOptions) =>
        device.baselineAttention(inputs, baseline, options),
    })),
    { name: 'float64', attend: (inputs, options) => device.exactAttention(inputs, options) },
  ];

  /** That every kernel makes of `there` the bits that it makes of `here`. */
  async function expectSameAnswers(
    there: CudaAttentionInputs,
    here: CudaAttentionInputs,
    options: CudaAttentionOptions,
  ) {
    const widest = Math.max(here.query.dims[3]!, here.value.dims[3]!);
    for (const { name, attend } of attenders(widest)) {
      const given = { ...options, returnLse: true };
      const [got, expected] = [await attend(there, given), await attend(here, given)];
      expectSameBits(await downloaded(got.out), await downloaded(expected.out), `output of ${name}`);
      expectSameBits(await downloaded(got.lse!), await downloaded(expected.lse!), `log-sum-exp of ${name}`);
      disposeAll(got.out, got.lse, expected.out, expected.lse);
    }
  }

  // Of the caller's codes; the scales lie one behind the other.
  describe.each(LAYOUTS)('codes, %s', (_, placeOf) => {
    it.each(DIMS)('attention, head dims %i and %i', async (headDim, headDimV) => {
      const dims: Dims[] = [
        [BATCH, HEADS, QUERIES, headDim],
        [BATCH, KV_HEADS, KEYS, headDim],
        [BATCH, KV_HEADS, KEYS, headDimV],
      ];
      const there = await Promise.all(dims.map((of, nth) => placed('int8', of, placeOf(of, nth), nth + 10)));
      const views = there.map(({ view }) => view);
      const here = await Promise.all(views.map(contiguous));
      const scales = await Promise.all(
        dims.map(([batch, heads, tokens], nth) => {
          const data = normalNumbers(batch * heads * tokens, nth + 13).map((x) => 0.02 + 0.002 * Math.abs(x));
          return device.upload({ type: 'float32', dims: [batch, heads, tokens], data });
        }),
      );
      const values = await Promise.all(
        ['float32', 'bfloat16'].map(async (type) => placed(type as FloatType, dims[2]!, placeOf(dims[2]!, 2), 16)),
      );
      const [qScale, kScale, vScale] = [scales[0]!, scales[1]!, scales[2]!];
      const scaleOfHead = vScale.view([BATCH, KV_HEADS]);
      const attends = ([q, k, v]: CudaTensor[], floats: readonly CudaTensor[]) => {
        const scores = { q: q!, k: k!, qScale, kScale };
        const half = { precision: 'half-int8', returnLse: true } as const;
        return [
          () => device.quantizedAttention({ ...scores, v: v!, vScale }, { returnLse: true }),
          () =>
            device.quantizedAttention(
              { ...scores, v: v!, vScale: scaleOfHead },
              { precision: 'paper-int8', returnLse: true },
            ),
          ...floats.map((value) => () => device.quantizedAttention({ ...scores, v: value }, half)),
        ];
      };
      const floatsHere = await Promise.all(values.map(({ view }) => contiguous(view)));
      const [ours, theirs] = [
        attends(
          views,
          values.map(({ view }) => view),
        ),
        attends(here, floatsHere),
      ];
      for (const [i, attend] of ours.entries()) {
        const [got, expected] = [await attend(), await theirs[i]!()];
        expectSameBits(await downloaded(got.out), await downloaded(expected.out), `output ${i}`);
        expectSameBits(await downloaded(got.lse!), await downloaded(expected.lse!), `log-sum-exp ${i}`);
        disposeAll(got.out, got.lse, expected.out, expected.lse);
      }
      disposeAll(
        ...there.map(({ memory }) => memory),
        ...values.map(({ memory }) => memory),
        ...here,
        ...floatsHere,
        ...scales,
      );
    });
  });

  describe.each(TYPES)('%s', (type) => {
    describe.each(LAYOUTS)('%s', (_, placeOf) => {
      it.each(DIMS)('attention by every kernel, head dims %i and %i', async (headDim, headDimV) => {
        const dims: Dims[] = [
          [BATCH, HEADS, QUERIES, headDim],
          [BATCH, KV_HEADS, KEYS, headDim],
          [BATCH, KV_HEADS, KEYS, headDimV],
        ];
        const there = await Promise.all(dims.map((of, nth) => placed(type, of, placeOf(of, nth), nth + 1)));
        const views = there.map(({ view }) => view);
        const here = await Promise.all(views.map(contiguous));
        const inputsOf = ([query, key, value]: CudaTensor[]) => ({ query: query!, key: key!, value: value! });
        const options = { isCausal: headDim !== 64, causalAlignment: 'bottom-right' } as const;
        await expectSameAnswers(inputsOf(views), inputsOf(here), options);
        disposeAll(...there.map(({ memory }) => memory), ...here);
      });

      it.each([8, 40, 64, 128, 200, 256])('quantize() has quant’s bits, %i channels', async (dim) => {
        const dims: Dims = [BATCH, 3, 67, dim];
        for (const nth of [0, 1, 2]) {
          const { memory, view } = await placed(type, dims, placeOf(dims, nth), nth + 4);
          const given = widen(await downloaded(view), type);
          const [eight, four] = [await device.quantize(view), await device.quantize(view, { bits: 4 })];
          const [int8, int4] = [quantizePerTokenInt8(given, dim), encodePerTokenInt4(given, dim)];
          expectSameBits(await downloaded(eight.codes), int8.values, `codes ${nth}`);
          expectSameBits(await downloaded(eight.scales), int8.scales, `scales ${nth}`);
          expectSameBits(await downloaded(four.codes), int4.codes, `codes of 4 bits ${nth}`);
          expectSameBits(await downloaded(four.scales), int4.scales, `scales of 4 bits ${nth}`);
          disposeAll(memory, eight.codes, eight.scales, four.codes, four.scales);
        }
      });
    });

    // As layers hand them over: [batch, tokens, heads, dim], of which a call sees some tokens.
    it.each(['HND', 'NHD'] as const)(
      'attention by every kernel on slices of [.., tokens, heads, ..] as %s',
      async (tensorLayout) => {
        const whole = await Promise.all(
          [
            [BATCH, QUERIES + 9, HEADS, 64],
            [BATCH, KEYS + 9, KV_HEADS, 64],
            [BATCH, KEYS + 9, KV_HEADS, 64],
          ].map((dims, nth) => {
            const [tokens, row] = [dims[1]!, dims[2]! * 64];
            const data = normalNumbers(dims[0]! * tokens * row, nth + 7).map((x, i) => {
              const token = Math.floor(i / row) % tokens;
              return token < 4 || token >= tokens - 5 ? Number.NaN : x;
            });
            return device.upload({ type, dims, data: narrow(data, type) });
          }),
        );
        const views = whole.map((tensor) => {
          const part = tensor.slice(1, 4, tensor.dims[1]! - 5);
          return tensorLayout === 'NHD' ? part : part.transpose(1, 2);
        });
        const here = await Promise.all(views.map(contiguous));
        const inputsOf = ([query, key, value]: CudaTensor[]) => ({ query: query!, key: key!, value: value! });
        await expectSameAnswers(inputsOf(views), inputsOf(here), { tensorLayout });
        disposeAll(...whole, ...here);
      },
    );
  });
});
